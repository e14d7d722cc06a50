"""Names of images in results and messages, and names of the groups of a report."""

import hashlib
from pathlib import PurePosixPath
from urllib.parse import unquote

from scorer.messages import MAX_ID_CHARACTERS
from scorer.payloads.https import describe_uri

_KEPT_CHARACTERS = MAX_ID_CHARACTERS - 100


def show_uri(uri: str) -> str:
    """Return a URI for a message: the path of a local file, or a URI without its possible secrets."""
    return _unquote(uri.removeprefix("file://")) if uri.startswith("file://") else describe_uri(uri)


def escape_name(name: str) -> str:
    """Return a name with escapes for bytes that are not UTF-8 (surrogates in Python)."""
    return name.encode(errors="backslashreplace").decode()


def shorten_id(name: str) -> str:
    """Return a name unchanged, or the start of a longer one with a digest of the whole name."""
    if len(name) <= _KEPT_CHARACTERS:
        return name
    return f"{name[:_KEPT_CHARACTERS]}...{hashlib.sha256(name.encode()).hexdigest()}"


def source_of(uri: str) -> str:
    """Return the group of the images of a tar or a manifest: its file name."""
    name = PurePosixPath(uri).name
    return _unquote(name) if uri.startswith("file:") else escape_name(name)


def _unquote(path: str) -> str:
    return escape_name(unquote(path, errors="surrogateescape"))
