"""Ends the process at once, from any thread, where a call may never return."""

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn

from scorer.errors import Exit

_callbacks: list[Callable[[], object]] = []


@contextmanager
def before_foreseen_exit(callback: Callable[[], object]) -> Iterator[None]:
    """Call `callback`, from any thread, before `exit_process` ends this process for a foreseen cause."""
    _callbacks.append(callback)
    try:
        yield
    finally:
        _callbacks.remove(callback)


def exit_process(code: Exit, *, foreseen: bool) -> NoReturn:
    """End the process without any clean-up: what a clean-up would call may never return.

    Args:
        code: the exit code.
        foreseen: the cause is known and lies in nothing that the process works on.
    """
    if foreseen:
        for callback in _callbacks:
            with suppress(Exception):
                callback()
    logging.shutdown()
    os._exit(code)
