"""The folder of a run: its files, and how a file is published whole or not at all.

    run.json                  settings, bundle digest, number of shards: written when the plan is complete
    _plan/                    shards and images, in the same order for every process
    results/part-NNNNN.parquet  one row a face, one for an image without a face (`scorer.archive.rows.RESULTS`)
    errors/part-NNNNN.parquet   one row an image that could not be scored (`ERRORS`); no file without such an image
    features/part-NNNNN.parquet  one row a scored face (`FEATURES`), only with --keep-features
    _attempts/NNNNN.json      a shard's claim, while a process works on it (`scorer.archive.claims`)
    _stats/NNNNN.json         a shard's commit mark, written last: names its files and counts their rows
    summary.json, report.html, _SUCCESS  when every shard is committed

Only files that a commit mark names count. Other files are left from killed processes and are overwritten or removed.
"""

import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import IO

from pydantic import BaseModel

from scorer.errors import UsageError
from scorer.files import require_local, write_and_rename


def part_name(index: int, generation: int = 0) -> str:
    """Return the file name of shard `index` in its folders; later generations have a number."""
    return f"part-{index:05d}.{generation}.parquet" if generation else f"part-{index:05d}.parquet"


def mark_name(index: int) -> str:
    """Return the file name of shard `index` in `_stats/`."""
    return f"{index:05d}.json"


def utf8_path(path: Path) -> str:
    """Return a path for Arrow and DuckDB, which read its bytes as UTF-8 in every locale.

    Raises:
        UsageError: its bytes are not UTF-8.
    """
    try:
        return os.fsencode(path).decode()
    except UnicodeDecodeError as error:
        name = os.fsencode(path).decode(errors="backslashreplace")
        message = f"{name} is not UTF-8, which the name of a run's folder must be: choose another name"
        raise UsageError(message) from error


def is_partial(path: Path) -> bool:
    """Return whether a file is one that `publish` is writing, or was writing when its process was killed."""
    return path.name.startswith(".") and path.suffix == ".partial"


def publish(path: Path, write: Callable[[IO[bytes]], object], verify: Callable[[Path], object]) -> None:
    """Write a file under a temporary name, sync it, verify it, rename it, and sync its folder.

    Args:
        path: its final name; a file of that name is replaced atomically.
        write: fills the open file.
        verify: reads the file again and raises when its content is wrong.

    Raises:
        UsageError: `path` is a URI.
        OSError: for example, the disk is full; no partial file is left.
    """
    require_local(path)
    # Random instead of the process id: in every container the first process has the id 1.
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_and_rename(partial, path, write, verify)


def publish_json(path: Path, content: BaseModel) -> None:
    """Publish a JSON file, and read it again before it is renamed.

    Raises:
        OSError: as `publish`.
    """
    text = content.model_dump_json(indent=1, by_alias=True).encode() + b"\n"
    publish(
        path, lambda file: file.write(text), lambda partial: type(content).model_validate_json(partial.read_bytes())
    )
