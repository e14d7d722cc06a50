"""The files of local folders and object stores, through fsspec: opened, listed, and told from their later versions."""

import glob
import io
import os
import posixpath
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

import fsspec

from scorer.archive.items import SourceChanged
from scorer.archive.source.names import describe
from scorer.extras import raise_missing
from scorer.paths import UsageError
from scorer.payloads.https import PayloadUnavailable

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
        files: fsspec's view of it. Nothing that it lists is remembered.
    """

    scheme: str
    files: Any

    def name(self, path: str) -> str:
        """Return the URI of a path in this store."""
        return Path(path).as_uri() if self.scheme == LOCAL else f"{self.scheme}://{path.lstrip('/')}"


@dataclass(frozen=True, slots=True)
class Version:
    """What tells a file from what it may become later: its size in bytes, and the store's word for its state."""

    size: int
    state: str


def open_store(name: str) -> tuple[Store, str]:
    """Return the store in which a path or URI lies, and its path there; no store is asked anything.

    Raises:
        UsageError: the scheme is unknown, or its package is not installed and none of ours.
        ModuleNotFoundError: its package is not installed, and an extra brings it.
    """
    scheme, separator, rest = name.partition("://")
    scheme = scheme.lower() if separator else LOCAL
    try:
        files = fsspec.filesystem(scheme, use_listings_cache=False)
    except (ValueError, ImportError) as error:
        raise_missing(error)
        message = f"{scheme}:// cannot be read here: {error}"
        raise UsageError(message) from error
    if scheme != LOCAL:
        return Store(scheme, files), str(files._strip_protocol(f"{scheme}://{rest}"))  # noqa: SLF001 - fsspec's way to say it
    # Not by `urlsplit`: the question mark of a glob begins no query.
    path = os.fsdecode(unquote_to_bytes(rest.removeprefix("localhost"))) if separator else name
    return Store(LOCAL, files), str(Path(path).absolute())


@contextmanager
def store_errors(uri: str) -> Iterator[None]:
    """Raise what a store does wrong as `PayloadUnavailable`; that a file does not exist is the caller's to judge."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        raise
    except PermissionError:
        message = f"{describe(uri)}: the store refuses this machine; check its credentials or the file's rights"
        raise PayloadUnavailable(message) from None
    except Exception as error:  # noqa: BLE001 - every store has its own; their texts may repeat secrets
        if type(error).__name__ == "FileExpired":  # s3fs's
            message = f"{describe(uri)} was replaced while it was read"
            raise SourceChanged(message) from None
        message = f"{describe(uri)}: the store failed ({type(error).__name__})"
        raise PayloadUnavailable(message) from None


class StoreFile(io.RawIOBase):
    """A file of a store, open for reading.

    Args:
        uri: of the file.
        scattered: reads jump between a few places, as a Parquet file's columns make them; else they go forward.

    Raises:
        FileNotFoundError: there is none.
        PayloadUnavailable: the store fails, here or in any method.
    """

    def __init__(self, uri: str, *, scattered: bool = False) -> None:
        super().__init__()
        store, path = open_store(uri)
        self._uri = uri
        with store_errors(uri):
            self._file = store.files.open(path, "rb", **(_KEEP_BLOCKS if scattered else _READ_AHEAD))

    def readable(self) -> bool:
        """Say that it can be read."""
        return True

    def seekable(self) -> bool:
        """Say that it can be read anywhere."""
        return True

    def read(self, size: int = -1) -> bytes:
        """Return up to `size` bytes from here, fewer only at the end."""
        with store_errors(self._uri):
            return bytes(self._file.read(size))

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401 - typeshed's name for a buffer needs Python 3.12
        """Fill a buffer from here."""
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a place."""
        with store_errors(self._uri):
            return int(self._file.seek(offset, whence))

    def tell(self) -> int:
        """Return where the next read begins."""
        return int(self._file.tell())

    def close(self) -> None:
        """Close it; a second time changes nothing."""
        if not self.closed:
            self._file.close()
        super().close()


def read_version(uri: str) -> Version:
    """Ask the store for a file's size and state (ETag, generation, or the time of the last change).

    Raises:
        FileNotFoundError: there is no such file.
        PayloadUnavailable: the store fails.
    """
    store, path = open_store(uri)
    with store_errors(uri):
        facts: Mapping[str, Any] = store.files.info(path)
    if facts["type"] == "directory":
        raise IsADirectoryError(uri)
    return Version(int(facts["size"]), next((str(facts[name]) for name in _VERSIONS if facts.get(name)), ""))


def list_folder(store: Store, folder: str, suffixes: frozenset[str]) -> Iterator[tuple[str, int | None]]:
    """Yield path and size of every file under a folder that has one of `suffixes`, sorted by name in each folder.

    Links to files count, links to folders are not followed. Memory holds the names of one folder (with an object
    store, all that it says of one folder: a kilobyte a file), so name the files of a folder of many millions in a
    manifest instead.

    Raises:
        FileNotFoundError: there is no such folder.
        PayloadUnavailable: the store fails.
    """
    children = _list_local(folder, suffixes) if store.scheme == LOCAL else _list_store(store, folder, suffixes)
    for path, size, is_folder in children:
        if is_folder:
            yield from list_folder(store, path, suffixes)
        else:
            yield path, size


def _list_local(folder: str, suffixes: frozenset[str]) -> Iterator[tuple[str, int | None, bool]]:
    with store_errors(Path(folder).as_uri()), os.scandir(folder) as entries:
        children = sorted(
            (entry.name, is_folder)
            for entry in entries
            if (is_folder := entry.is_dir(follow_symlinks=False))
            or (Path(entry.name).suffix.lower() in suffixes and not entry.is_dir())
        )
    for name, is_folder in children:
        path = Path(folder, name)
        yield str(path), None if is_folder else local_size(str(path)), is_folder


def local_size(path: str) -> int | None:
    """Return a local file's size in bytes; None where there is none, which reading it will say."""
    try:
        return Path(path).stat().st_size
    except OSError:
        return None


def _list_store(store: Store, folder: str, suffixes: frozenset[str]) -> Iterator[tuple[str, int | None, bool]]:
    with store_errors(store.name(folder)):
        listing = store.files.ls(folder, detail=True)
    children = sorted((str(entry["name"]), entry["type"] == "directory", entry.get("size") or 0) for entry in listing)
    del listing
    for path, is_folder, size in children:
        if path.rstrip("/") != folder.rstrip("/") and (is_folder or Path(path).suffix.lower() in suffixes):
            yield path, size, is_folder


def match_names(store: Store, pattern: str) -> list[tuple[str, bool]]:
    """Return the paths that a glob matches (`*`, `?`, `[...]`, and `**` for any folders), sorted; memory holds all.

    Beside each stands whether it is a folder.

    Links to folders are not matched, so that no circle of them is walked.

    Raises:
        PayloadUnavailable: the store fails.
    """
    with store_errors(store.name(pattern)):
        if store.scheme == LOCAL:
            root = glob_root(pattern)
            matches = Path(root).glob(pattern[len(root) :].lstrip("/"))
            found = [(str(path), path.is_dir()) for path in matches if not (path.is_symlink() and path.is_dir())]
        else:
            listing = store.files.glob(pattern, detail=True)
            found = [(str(path), facts["type"] == "directory") for path, facts in listing.items()]
    return sorted(found)


def glob_root(pattern: str) -> str:
    """Return the folder below which everything lies that a glob can match."""
    while glob.has_magic(pattern):
        pattern = posixpath.dirname(pattern)
    return pattern


def folder_exists(store: Store, path: str) -> bool:
    """Return whether a path is a folder, or a prefix of objects.

    Raises:
        PayloadUnavailable: the store fails.
    """
    with store_errors(store.name(path)):
        return bool(store.files.isdir(path))
