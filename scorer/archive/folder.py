"""The folder of a run: which file is what, and how a file is published whole or not at all.

    run.json                  settings, bundle digest, number of shards: written when the plan is complete
    _plan/                    shards and images, in the order in which every process sees them
    results/part-NNNNN.parquet  one row a face, one for an image without a face (`scorer.archive.rows.RESULTS`)
    errors/part-NNNNN.parquet   one row an image that could not be scored (`ERRORS`); absent where there is none
    _stats/NNNNN.json         a shard's commit mark, written last: names its files and counts their rows
    summary.json, report.html, _SUCCESS  when every shard is committed

Only what a commit mark names counts; anything else is a killed process's rest and is written over.
"""

import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import IO

from pydantic import BaseModel

from scorer.errors import UsageError
from scorer.files import require_local


def part_name(index: int) -> str:
    """Return the file name of shard `index` in `results/` and `errors/`."""
    return f"part-{index:05d}.parquet"


def mark_name(index: int) -> str:
    """Return the file name of shard `index` in `_stats/`."""
    return f"{index:05d}.json"


def utf8_path(path: Path) -> str:
    """Return a path for Arrow and DuckDB, which take its bytes for UTF-8 whatever the locale.

    Raises:
        UsageError: its bytes are none.
    """
    try:
        return os.fsencode(path).decode()
    except UnicodeDecodeError as error:
        name = os.fsencode(path).decode(errors="backslashreplace")
        message = f"{name} is no name in UTF-8, which a run's folder must have: name another"
        raise UsageError(message) from error


def is_partial(path: Path) -> bool:
    """Return whether a file is one that `publish` was still writing when its process was killed, or still writes."""
    return path.name.startswith(".") and path.suffix == ".partial"


def publish(path: Path, write: Callable[[IO[bytes]], object], verify: Callable[[Path], object]) -> None:
    """Write a file under a temporary name, sync it, verify it, rename it, and sync its folder.

    Args:
        path: its final name; what is there is replaced in one instant.
        write: fills the open file.
        verify: reads the file again and raises when it is not what it should be.

    Raises:
        UsageError: `path` is a URI.
        OSError: the disk is full, among others; nothing of it is left behind.
    """
    require_local(path)
    # By chance, not by process id: in a container every process is the first.
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with partial.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        verify(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def publish_json(path: Path, content: BaseModel) -> None:
    """Publish a JSON file, and read it again before it is renamed.

    Raises:
        OSError: as `publish`.
    """
    text = content.model_dump_json(indent=1, by_alias=True).encode() + b"\n"
    publish(
        path, lambda file: file.write(text), lambda partial: type(content).model_validate_json(partial.read_bytes())
    )
