"""Names of images: what a result calls them, and what a report groups them by."""

import hashlib
from pathlib import PurePosixPath
from urllib.parse import unquote

from scorer.messages import MAX_ID_CHARACTERS
from scorer.payloads.https import describe_uri

_KEPT_CHARACTERS = MAX_ID_CHARACTERS - 100


def show_uri(uri: str) -> str:
    """Return a URI for a message: a local file's path, any other without what may be a secret."""
    return _unquote(uri.removeprefix("file://")) if uri.startswith("file://") else describe_uri(uri)


def escape_name(name: str) -> str:
    """Return a name in which bytes that are no text (surrogates, as Python reads them) stand escaped."""
    return name.encode(errors="backslashreplace").decode()


def shorten_id(name: str) -> str:
    """Return a name as it is, or what a result takes of a longer one: its start, and a digest of the whole."""
    if len(name) <= _KEPT_CHARACTERS:
        return name
    return f"{name[:_KEPT_CHARACTERS]}...{hashlib.sha256(name.encode()).hexdigest()}"


def source_of(uri: str) -> str:
    """Return what the images of a tar or a manifest are grouped by: its file name."""
    name = PurePosixPath(uri).name
    return _unquote(name) if uri.startswith("file:") else escape_name(name)


def _unquote(path: str) -> str:
    return escape_name(unquote(path, errors="surrogateescape"))
