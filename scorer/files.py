"""Writes files on this machine, in one instant: a reader sees the old one or the new one, also after a crash."""

import os
import re
from pathlib import Path

from scorer.paths import UsageError

_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")  # `Path` makes one slash of two


def require_local(path: Path) -> None:
    """Refuse to write to a URI, which would become a folder of that name.

    Raises:
        UsageError: it is one.
    """
    if _URI.match(str(path)):
        scheme, _, rest = str(path).partition(":/")
        message = (
            f"{scheme}://{'/' if scheme == 'file' else ''}{rest} is a URI, and what is written lies on this machine: "
            "name a path, and copy it to a store afterwards"
        )
        raise UsageError(message)


def replace_file(path: Path, data: bytes) -> None:
    """Write `data` beside `path` as `<name>.partial`, sync it, and rename it.

    Raises:
        OSError: the disk is full or not writable; the old file is as it was, and no partial file is left.
    """
    partial = path.with_name(f"{path.name}.partial")
    try:
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
