"""The end of a run: when every shard is committed, whoever comes last says so. Two may; it is the same both times."""

import re
from collections.abc import Callable
from pathlib import Path

from scorer.archive.folder import publish

_MARK = re.compile(r"\d{5,}\.json")


def count_missing(folder: Path, shards: int) -> int:
    """Return how many shards are not committed."""
    return shards - sum(_MARK.fullmatch(path.name) is not None for path in (folder / "_stats").glob("*.json"))


def finish_run(folder: Path, shards: int, report: Callable[[Path], object] = lambda _: None) -> int:
    """Write the run's report and `_SUCCESS` if nothing is missing; return how many shards are.

    Raises:
        OSError: the folder cannot be written.
    """
    missing = count_missing(folder, shards)
    if not missing:
        report(folder)
        publish(folder / "_SUCCESS", lambda _: None, lambda _: None)
    return missing
