"""Replaces a file in one instant: whoever reads it sees the old one or the new one, also after a crash."""

import os
from pathlib import Path


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
