"""Removes what killed processes left of shards, so that a run's folders hold only files that count."""

import re
from collections.abc import Container
from pathlib import Path

from scorer.archive.claims import Claim
from scorer.archive.marks import read_mark

_SHARD_FILE = re.compile(r"part-(\d{5,})(?:\.\d+)?\.parquet|\.(?:part-)?(\d{5,})\..+\.partial")


def remove_uncommitted_files(folder: Path, shards: Container[int]) -> int:
    """Remove partial files, and files that no mark names, of those `shards` without a claim; return how many.

    Raises:
        RunBroken: a commit mark cannot be read.
        OSError: a file cannot be removed.
    """
    found: dict[int, list[Path]] = {}
    for kind in ("results", "errors", "features", "_stats"):
        for path in (folder / kind).glob("*"):
            if (match := _SHARD_FILE.fullmatch(path.name)) and (shard := int(match[1] or match[2])) in shards:
                found.setdefault(shard, []).append(path)
    removed = 0
    for shard, paths in found.items():
        if not _select_unnamed(folder, shard, paths):
            continue
        claim = Claim.acquire(folder / "_attempts", shard)
        if claim is None:
            continue
        try:
            for path in _select_unnamed(folder, shard, paths):  # again, now that no other process changes the mark
                path.unlink(missing_ok=True)
                removed += 1
        finally:
            claim.release()
    return removed


def _select_unnamed(folder: Path, shard: int, paths: list[Path]) -> list[Path]:
    """Return those of a shard's files that its commit mark does not name."""
    mark = read_mark(folder, shard)
    named = mark.paths if mark else set()
    return [path for path in paths if path.relative_to(folder).as_posix() not in named]
