"""The end of a run: when every shard is committed, whoever comes last says so. Two may; it is the same both times."""

from collections.abc import Callable
from pathlib import Path

from scorer.archive.folder import publish
from scorer.archive.marks import list_committed


def finish_run(folder: Path, shards: int, report: Callable[[Path], object] = lambda _: None) -> int:
    """Write the run's report and `_SUCCESS` if nothing is missing; return how many shards are.

    Raises:
        OSError: the folder cannot be written.
    """
    missing = shards - len(list_committed(folder))
    if not missing:
        report(folder)
        publish(folder / "_SUCCESS", lambda _: None, lambda _: None)
    return missing
