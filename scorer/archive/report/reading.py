"""Read the image of a face again, for a gallery, where it lies in files of this machine."""

import os
import stat
from pathlib import Path
from urllib.parse import unquote_to_bytes, urlsplit

from ingest.probe import DEFAULT_LIMITS
from ingest.reasons import Unscorable
from scorer.archive.report.figures import Face
from scorer.paths import read_image


def read_file_again(face: Face) -> bytes | None:
    """Return the bytes of a face's image, a file or a tar's member at a `file:` URI; None where they cannot be had.

    Nothing here says that they are still the same; their digest does (`scorer.archive.report.gallery`).
    """
    if not face.uri.startswith("file:"):
        return None
    try:
        if face.span_offset is None or face.span_size is None:
            return read_image(face.uri, DEFAULT_LIMITS.max_bytes)
        return _read_span(face.uri, face.span_offset, face.span_size)
    except (Unscorable, OSError, ValueError):  # ValueError: a NUL in the name, a negative offset
        return None


def _read_span(uri: str, offset: int, size: int) -> bytes | None:
    path = Path(os.fsdecode(unquote_to_bytes(urlsplit(uri).path)))
    if size > DEFAULT_LIMITS.max_bytes or not stat.S_ISREG(path.stat().st_mode):
        return None
    with path.open("rb") as file:
        file.seek(offset)
        data = file.read(size)
    return data if len(data) == size else None
