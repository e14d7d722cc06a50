"""How a process stops: in good order after a signal, or at once because a call may never return."""

import logging
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn

from scorer.errors import Exit

_callbacks: list[Callable[[], object]] = []


@contextmanager
def before_foreseen_exit(callback: Callable[[], object]) -> Iterator[None]:
    """Let `exit_process` call `callback`, from any thread, before it exits for a known cause."""
    _callbacks.append(callback)
    try:
        yield
    finally:
        _callbacks.remove(callback)


@contextmanager
def stop_on_signals(stop: Callable[[], object], second: signal.Handlers | None = None) -> Iterator[None]:
    """Call `stop` on the first SIGTERM or SIGINT; only the main thread can use this.

    Args:
        stop: is called by the signal's handler.
        second: what a second signal does; None: what it did before.
    """
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def handle(_number: int, _frame: object) -> None:
        for number, handler in before.items():
            signal.signal(number, handler if second is None else second)
        stop()

    for number in before:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def delay_interrupt() -> Iterator[None]:
    """Handle a Ctrl-C that arrives in the block after it, so that the block is done as a whole.

    Only the main thread can use this.
    """
    interrupts: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _frame: interrupts.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if interrupts:
        signal.raise_signal(signal.SIGINT)


def exit_process(code: Exit, *, foreseen: bool) -> NoReturn:
    """Exit without any clean-up: a call in a clean-up may never return.

    Args:
        code: the exit code.
        foreseen: the cause is known, and it is not in the data that the process works on.
    """
    if foreseen:
        for callback in _callbacks:
            with suppress(Exception):
                callback()
    logging.shutdown()
    os._exit(code)
