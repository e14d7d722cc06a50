"""Files of this machine that a user named, by `file:` URI."""

import os
import stat
from pathlib import Path
from urllib.parse import unquote_to_bytes, urlsplit

from ingest.reasons import Reason, Unscorable
from scorer.messages import ImageSource, RequestedFace, ScoreRequest
from scorer.payloads.names import shorten_id


def decode_file_uri(uri: str) -> Path:
    """Return the path that a `file:` URI names, in exactly its bytes."""
    return Path(os.fsdecode(unquote_to_bytes(urlsplit(uri).path)))


def read_image(uri: str, max_bytes: int) -> bytes:
    """Read the file at a `file:` URI whole.

    Raises:
        Unscorable: it is missing, forbidden, not a regular file (a pipe would block for ever), or too large.
    """
    path = decode_file_uri(uri)
    try:
        facts = path.stat()
        if not stat.S_ISREG(facts.st_mode):
            raise Unscorable(Reason.UNREADABLE, "not a regular file")
        if facts.st_size > max_bytes:
            raise Unscorable(Reason.TOO_MANY_BYTES, f"{facts.st_size} bytes, the limit is {max_bytes}")
        return path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a name contains a NUL
        raise Unscorable(Reason.UNREADABLE, getattr(error, "strerror", None) or str(error)) from error


def name_file(path: Path) -> str:
    """Return the name of a file in results: as given, with bytes that are not UTF-8 escaped."""
    return os.fsencode(path).decode(errors="backslashreplace")


def request_file(path: Path, faces: tuple[RequestedFace, ...] | None = None) -> ScoreRequest:
    """Return the request that scores a file; None finds its faces.

    Raises:
        pydantic.ValidationError: there are too many boxes, or two have one face_id.
    """
    # A file name may contain bytes that are not UTF-8: the id contains them escaped, the URI exactly.
    name = shorten_id(name_file(path))
    return ScoreRequest(request_id=name, content_id=name, image=ImageSource(uri=path.absolute().as_uri()), faces=faces)
