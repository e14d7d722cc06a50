"""Locks the folder of a run or of a training, so that a second process does not write the same files."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from scorer.errors import TrainingInterrupted
from scorer.files import try_lock

LOCK = "lock"
POLL_S = 0.5


@contextmanager
def hold_folder(folder: Path, *, wait: bool = False) -> Iterator[None]:
    """Lock `folder`, which is created, for the block; with `wait`, first wait for the process that holds it.

    The lock also ends with the process, in whatever way.

    Raises:
        TrainingInterrupted: another process holds the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("ab") as file:
        while not try_lock(file.fileno()):
            if not wait:
                message = f"another process works in {folder}: when it has ended, run the same command again"
                raise TrainingInterrupted(message)
            time.sleep(POLL_S)
        yield
