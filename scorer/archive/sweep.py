"""Removes what killed processes left in `results/` and `errors/`, so that nothing lies there but what counts."""

import re
from collections.abc import Container
from pathlib import Path

from scorer.archive.attempts import Claim
from scorer.archive.marks import read_mark

_PART = re.compile(r"(?P<partial>\.)?part-(?P<shard>\d{5,})(\.\d+)?\.parquet(?(partial)\.\d+\.partial)")


def sweep(folder: Path, shards: Container[int]) -> int:
    """Remove partial files, and files that no mark names, of those `shards` that nobody works on; return how many.

    Raises:
        RunBroken: a commit mark cannot be understood.
        OSError: a file cannot be removed.
    """
    found: dict[int, list[Path]] = {}
    for room in ("results", "errors"):
        for path in (folder / room).glob("*part-*"):
            if (match := _PART.fullmatch(path.name)) and int(match["shard"]) in shards:
                found.setdefault(int(match["shard"]), []).append(path)
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
