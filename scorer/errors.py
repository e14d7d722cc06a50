"""The exit codes of `unlensed` and `unlensed-train`: one table, from which the help text is written."""

import logging
import os
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from enum import IntEnum
from typing import NoReturn, Self

_WIDTH = 76  # of a help text's line on a terminal of 80 columns
_last_acts: list[Callable[[], object]] = []


class Exit(IntEnum):
    """Exit codes with what each means; those of sysexits.h where it has one.

    Attributes:
        meaning: what a person is told, as the README's table says it.
    """

    meaning: str

    DONE = 0, "done"
    USAGE = 2, "wrong usage"
    FAILURES = 3, "too many images failed, or dead letters in a replay"
    BAD_DATA = 65, "bad bundle, an engine that is not the bundle's, or an archive that changed under a scan"
    CRASHED = 70, "a defect: please report it"
    GPU_LOST = (
        71,
        "the GPU is lost to the process: start it again, nothing of the work in hand was committed",
    )
    TRY_AGAIN = (
        75,
        "try again: a broker, a store, a disk, a port or the GPU's memory is not there now, or a scan was stopped",
    )
    BAD_CONFIGURATION = (
        78,
        "bad configuration, another run in the folder, or a broker that refuses us",
    )
    INTERRUPTED = 130, "stopped by Ctrl-C, or a question was answered with no"

    def __new__(cls, code: int, meaning: str) -> Self:
        """Return the member of `code`."""
        member = int.__new__(cls, code)
        member._value_ = code
        member.meaning = meaning
        return member


@contextmanager
def before_foreseen_end(act: Callable[[], object]) -> Iterator[None]:
    """Have `act` called, by any thread, before `end_at_once` ends this process for a foreseen cause."""
    _last_acts.append(act)
    try:
        yield
    finally:
        _last_acts.remove(act)


def end_at_once(code: Exit, *, foreseen: bool) -> NoReturn:
    """End the process at once and clean nothing up: what would have to be asked may never answer.

    Args:
        code: how it ends.
        foreseen: the cause is known and lies in nothing that the process works on.
    """
    if foreseen:
        for act in _last_acts:
            with suppress(Exception):
                act()
    logging.shutdown()
    os._exit(code)


def describe_exits() -> str:
    """Return the table as the last paragraph of a help text; its first line keeps Typer from filling the others."""
    lines = [
        line
        for each in Exit
        for line in textwrap.wrap(f"{each:>4d}  {each.meaning}", _WIDTH, subsequent_indent=" " * 6)
    ]
    return "\n".join(["\b", "Exit codes:", *lines])
