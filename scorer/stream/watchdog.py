"""Exits the process when a call that cannot be interrupted does not return in time."""

import threading
import time
from types import TracebackType
from typing import NoReturn, Self

from scorer.errors import Exit
from scorer.observe.logs import get_logger
from scorer.process_exit import exit_process

log = get_logger(__name__)


class Watchdog:
    """`with watchdog:` must finish within `limit_s`, or the process exits with code 75. For one thread at a time.

    An exit is safe where a call waits forever: the next process reads the state from the broker. Only calls to the
    broker are watched, so the exit is not a crash of a record.
    """

    def __init__(self, limit_s: float, what: str) -> None:
        self._limit_s, self._what = limit_s, what
        self._changed = threading.Condition()
        self._deadline: float | None = None
        self._closed = False
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        with self._changed:
            self._deadline = time.monotonic() + self._limit_s
            if self._thread is None:
                self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
                self._thread.start()
            self._changed.notify()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._changed:
            self._deadline = None

    def abort_process(self, why: str) -> NoReturn:
        """Exit the process with code 75."""
        log.error("this process exits; the next one reads from the broker what was done", what=self._what, why=why)
        exit_process(Exit.TRY_AGAIN, foreseen=True)

    def close(self) -> None:
        """Stop the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def _watch(self) -> None:
        with self._changed:
            while not self._closed:
                left_s = None if self._deadline is None else self._deadline - time.monotonic()
                if left_s is not None and left_s <= 0:
                    self.abort_process(f"it did not return within {self._limit_s:g} s")
                self._changed.wait(left_s)
