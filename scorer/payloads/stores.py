"""Files of local folders and object stores, through fsspec: open them, and detect changes."""

import io
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

import fsspec

from scorer.errors import PayloadRefused, PayloadUnavailable, SettingsError, SourceChanged, UsageError
from scorer.payloads.clients import describe_access_denied, is_access_denied, require_client
from scorer.payloads.names import show_uri
from scorer.payloads.read import INVALID_NAME_ERRORS, TRANSIENT_ERRNOS

BLOCK_BYTES = 4 * 2**20
LOCAL = "file"
_READ_AHEAD = {"block_size": BLOCK_BYTES, "cache_type": "readahead"}
_KEEP_BLOCKS = {"block_size": BLOCK_BYTES, "cache_type": "blockcache", "cache_options": {"maxblocks": 8}}
_VERSIONS = ("ETag", "etag", "generation", "mtime", "LastModified", "last_modified", "created")


@dataclass(frozen=True, slots=True)
class Store:
    """A local disk or an object store.

    Attributes:
        scheme: "file", "s3", ...
        files: the file system of fsspec, without a cache of listings.
    """

    scheme: str
    files: Any

    def name(self, path: str) -> str:
        """Return the URI of a path in this store."""
        return Path(path).as_uri() if self.scheme == LOCAL else f"{self.scheme}://{path.lstrip('/')}"


@dataclass(frozen=True, slots=True)
class Version:
    """Detects a changed file: its size in bytes, and the identifier of its state in the store."""

    size: int
    state: str


def open_store(name: str) -> tuple[Store, str]:
    """Return the store of a path or URI, and the path in the store, without a request to the store.

    Raises:
        UsageError: the scheme is unknown.
        SettingsError: its package is not installed, or its client lacks settings.
    """
    scheme, separator, rest = name.partition("://")
    scheme = scheme.lower() if separator else LOCAL
    try:
        require_client(scheme)
    except SettingsError:
        raise
    except ValueError as error:
        message = f"{scheme}:// cannot be read here: {error}"
        raise UsageError(message) from error
    try:
        files = fsspec.filesystem(scheme, use_listings_cache=False)
    except Exception as error:  # every client has its own exceptions
        message = f"{scheme}:// cannot be opened ({type(error).__name__}): {describe_access_denied(scheme)}"
        raise SettingsError(message) from error
    if scheme != LOCAL:
        return Store(scheme, files), str(files._strip_protocol(f"{scheme}://{rest}"))  # noqa: SLF001 - fsspec has no public function for it
    # `urlsplit` would take the question mark of a glob for a query.
    escaped = rest.removeprefix("localhost").encode(errors="surrogateescape")
    path = os.fsdecode(unquote_to_bytes(escaped)) if separator else name
    return Store(LOCAL, files), str(Path(path).absolute())


@contextmanager
def store_errors(uri: str) -> Iterator[None]:
    """Translate the errors of a store; a missing file is left to the caller.

    Raises:
        PayloadRefused: the store denies access.
        UsageError: the name is not valid: a cycle of links, too long, or refused by the store.
        PayloadUnavailable: the store fails; a retry may succeed.
        SourceChanged: the file was replaced while it was read.
    """
    scheme = uri.partition("://")[0].lower()
    try:
        yield
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        raise
    except Exception as error:  # noqa: BLE001 - every client has its own exceptions, whose texts may contain secrets
        if scheme == LOCAL and isinstance(error, OSError) and error.errno not in TRANSIENT_ERRNOS:
            refused = isinstance(error, PermissionError)
            message = f"{show_uri(uri)} cannot be read: {error.strerror}{'; check its permissions' if refused else ''}"
            raise (PayloadRefused if refused else UsageError)(message) from None
        if is_access_denied(error):
            message = f"{show_uri(uri)}: {describe_access_denied(scheme)}"
            raise PayloadRefused(message) from None
        if type(error).__name__ in INVALID_NAME_ERRORS:
            message = f"{show_uri(uri)} is not a valid name in the store"
            raise UsageError(message) from None
        if type(error).__name__ == "FileExpired":  # of s3fs
            message = f"{show_uri(uri)} was replaced while it was read"
            raise SourceChanged(message) from None
        message = f"{show_uri(uri)}: the store failed ({type(error).__name__})"
        raise PayloadUnavailable(message) from None


class StoreFile(io.RawIOBase):
    """A file of a store, open for reading.

    Args:
        uri: of the file.
        scattered: reads alternate between a few offsets, as for columns of Parquet; else they are sequential.

    Raises:
        FileNotFoundError: the file does not exist.
        UsageError: it is a pipe or a device.
        PayloadUnavailable: the store fails, here or in any method.
    """

    def __init__(self, uri: str, *, scattered: bool = False) -> None:
        super().__init__()
        store, path = open_store(uri)
        self._uri = uri
        _require_regular(store, path)
        with store_errors(uri):
            self._file = store.files.open(path, "rb", **(_KEEP_BLOCKS if scattered else _READ_AHEAD))

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def read(self, size: int = -1) -> bytes:
        """Return up to `size` bytes from the current position, fewer only at the end."""
        with store_errors(self._uri):
            return bytes(self._file.read(size))

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401 - typeshed's name for a buffer needs Python 3.12
        """Fill a buffer from the current position."""
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Set the position."""
        with store_errors(self._uri):
            return int(self._file.seek(offset, whence))

    def tell(self) -> int:
        """Return the position."""
        return int(self._file.tell())

    def close(self) -> None:
        """Close the file; a second call has no effect."""
        if not self.closed:
            self._file.close()
        super().close()


def read_version(uri: str) -> Version:
    """Return the size and state of a file from its store (ETag, generation, or the time of the last change).

    Raises:
        FileNotFoundError: there is no such file.
        UsageError: it is a pipe or a device.
        PayloadUnavailable: the store fails.
    """
    store, path = open_store(uri)
    _require_regular(store, path)
    with store_errors(uri):
        facts: Mapping[str, Any] = store.files.info(path)
    if facts["type"] == "directory":
        raise IsADirectoryError(uri)
    return Version(int(facts["size"]), next((str(facts[name]) for name in _VERSIONS if facts.get(name)), ""))


def _require_regular(store: Store, path: str) -> None:
    """Refuse a pipe or a device of this machine: reading it would block."""
    if store.scheme != LOCAL:
        return
    with store_errors(store.name(path)):
        mode = Path(path).stat().st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        message = f"{show_uri(store.name(path))} is not a regular file"
        raise UsageError(message)


def folder_exists(store: Store, path: str) -> bool:
    """Return whether a path is a folder, or a prefix of objects.

    Raises:
        PayloadUnavailable: the store fails.
    """
    with store_errors(store.name(path)):
        return bool(store.files.isdir(path))
