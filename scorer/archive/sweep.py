"""Removes what killed processes left of shards, so that nothing lies in a run's rooms but what counts."""

import re
from collections.abc import Container
from pathlib import Path

from scorer.archive.claims import Claim
from scorer.archive.marks import read_mark

_REST = re.compile(r"part-(\d{5,})(?:\.\d+)?\.parquet|\.(?:part-)?(\d{5,})\..+\.partial")


def sweep(folder: Path, shards: Container[int]) -> int:
    """Remove partial files, and files that no mark names, of those `shards` that nobody works on; return how many.

    Raises:
        RunBroken: a commit mark cannot be understood.
        OSError: a file cannot be removed.
    """
    found: dict[int, list[Path]] = {}
    for room in ("results", "errors", "_stats"):
        for path in (folder / room).glob("*"):
            if (match := _REST.fullmatch(path.name)) and (shard := int(match[1] or match[2])) in shards:
                found.setdefault(shard, []).append(path)
    removed = 0
    for shard, paths in found.items():
        mark = read_mark(folder, shard)
        named = mark.paths if mark else set()
        if all(path.relative_to(folder).as_posix() in named for path in paths):
            continue
        claim = Claim.take(folder / "_attempts", shard)
        if claim is None:
            continue
        try:
            mark = read_mark(folder, shard)  # as it is now that nobody else changes it
            named = mark.paths if mark else set()
            for path in paths:
                if path.relative_to(folder).as_posix() not in named:
                    path.unlink(missing_ok=True)
                    removed += 1
        finally:
            claim.release()
    return removed
