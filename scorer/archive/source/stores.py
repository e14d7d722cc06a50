"""The files of local folders and object stores, through fsspec: opened, listed, and told from their later versions."""

import fnmatch
import glob
import io
import os
import posixpath
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote_to_bytes

import fsspec
from fsspec.asyn import AsyncFileSystem
from fsspec.utils import glob_translate

from scorer.archive.items import SourceChanged
from scorer.archive.source.names import describe
from scorer.paths import UsageError
from scorer.payloads.clients import describe_refusal, is_refusal, require_client
from scorer.payloads.https import PayloadRefused, PayloadUnavailable
from scorer.payloads.read import BAD_NAME, LOST_FILE
from scorer.settings import SettingsError

BLOCK_BYTES = 4 * 2**20
LOCAL = "file"
_READ_AHEAD = {"block_size": BLOCK_BYTES, "cache_type": "readahead"}
_KEEP_BLOCKS = {"block_size": BLOCK_BYTES, "cache_type": "blockcache", "cache_options": {"maxblocks": 8}}
# Why a folder cannot be listed while others can.
_UNLISTED = (PayloadRefused, UsageError, FileNotFoundError, NotADirectoryError)
Kind = Literal["file", "folder", "folder_link", "unlisted"]
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


_DISK = Store(LOCAL, None)


@dataclass(frozen=True, slots=True)
class Version:
    """What tells a file from what it may become later: its size in bytes, and the store's word for its state."""

    size: int
    state: str


def open_store(name: str) -> tuple[Store, str]:
    """Return the store in which a path or URI lies, and its path there; no store is asked anything.

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
    except Exception as error:  # every client has its own
        message = f"{scheme}:// cannot be opened ({type(error).__name__}): {describe_refusal(scheme)}"
        raise SettingsError(message) from error
    if scheme != LOCAL:
        return Store(scheme, files), str(files._strip_protocol(f"{scheme}://{rest}"))  # noqa: SLF001 - fsspec's way to say it
    # Not by `urlsplit`: the question mark of a glob begins no query.
    escaped = rest.removeprefix("localhost").encode(errors="surrogateescape")
    path = os.fsdecode(unquote_to_bytes(escaped)) if separator else name
    return Store(LOCAL, files), str(Path(path).absolute())


@contextmanager
def store_errors(uri: str) -> Iterator[None]:
    """Raise what a store does wrong as what it is; that a file does not exist is the caller's to judge.

    Raises:
        PayloadRefused: it does not let this machine in.
        UsageError: the name cannot be one of a file: links in a circle, too long, not what the store takes.
        PayloadUnavailable: it fails, and may not fail later.
        SourceChanged: the file was replaced while it was read.
    """
    scheme = uri.partition("://")[0].lower()
    try:
        yield
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        raise
    except Exception as error:  # noqa: BLE001 - every store has its own; their texts may repeat secrets
        if scheme == LOCAL and isinstance(error, OSError) and error.errno not in LOST_FILE:
            refused = isinstance(error, PermissionError)
            message = f"{describe(uri)} cannot be read: {error.strerror}{'; check its rights' if refused else ''}"
            raise (PayloadRefused if refused else UsageError)(message) from None
        if is_refusal(error):
            message = f"{describe(uri)}: {describe_refusal(scheme)}"
            raise PayloadRefused(message) from None
        if type(error).__name__ in BAD_NAME:
            message = f"{describe(uri)} is no name that the store takes"
            raise UsageError(message) from None
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
    """Refuse a pipe or a device of this machine, which would be waited for."""
    if store.scheme != LOCAL:
        return
    with store_errors(store.name(path)):
        mode = Path(path).stat().st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        message = f"{describe(store.name(path))} is no regular file"
        raise UsageError(message)


@dataclass(frozen=True, slots=True)
class Found:
    """What a folder holds or a glob matches.

    Attributes:
        path: in the store.
        kind: "folder_link" is a link to a folder, "unlisted" a folder that cannot be listed.
        size: of a file, in bytes, where the listing tells.
        problem: why a folder cannot be listed.
    """

    path: str
    kind: Kind = "file"
    size: int | None = None
    problem: str = ""


def list_folder(store: Store, folder: str) -> Iterator[Found]:
    """Yield every file under a folder, sorted by name in each folder, links to folders, and what cannot be listed.

    Links to files count as files, links to folders are not followed. A folder below that cannot be listed is told and
    the others are gone on with. Memory holds the names of one folder (with an object store, all that it says of one
    folder: a kilobyte a file), so name the files of a folder of many millions in a manifest instead.

    Raises:
        FileNotFoundError: there is no such folder.
        PayloadRefused: the folder itself may not be listed.
        PayloadUnavailable: the store fails.
    """
    return (child for child in _walk(store, folder) if child.kind != "folder")


def _walk(store: Store, folder: str) -> Iterator[Found]:
    stack = [(folder, _list_children(store, folder))]  # not by recursion: folders can be thousands deep
    while stack:
        path, children = stack[-1]
        try:
            child = next(children, None)
        except _UNLISTED as error:
            if len(stack) == 1:
                raise
            child = tell_unlisted(path, error)
        if child is None or child.kind == "unlisted":
            stack.pop()
        if child is not None:
            yield child
            if child.kind == "folder":
                stack.append((child.path, _list_children(store, child.path)))


def tell_unlisted(folder: str, error: Exception) -> Found:
    """Return what stands for a folder that cannot be listed."""
    gone = "is gone since its parent was listed" if isinstance(error, OSError) else str(error)
    return Found(folder, "unlisted", problem=f"a folder that could not be listed: {gone}; then start a new run")


def _list_children(store: Store, folder: str) -> Iterator[Found]:
    if store.scheme != LOCAL:
        yield from sorted(_list_store(store, folder), key=lambda child: (child.path, child.kind))
        return
    with store_errors(Path(folder).as_uri()), os.scandir(folder) as entries:
        found = sorted((entry.name, _kind_of(entry)) for entry in entries)
    for name, kind in found:
        yield Found(str(Path(folder, name)), kind)


def _kind_of(entry: "os.DirEntry[str]") -> Kind:
    try:
        if entry.is_dir():
            return "folder_link" if entry.is_symlink() else "folder"
    except OSError:
        pass  # a link to itself, among others: reading it will say so
    return "file"


def local_size(path: str) -> int | None:
    """Return a local file's size in bytes; None where there is none, which reading it will say."""
    try:
        return Path(path).stat().st_size
    except OSError:
        return None


def _list_store(store: Store, folder: str) -> list[Found]:
    with store_errors(store.name(folder)):
        listing = store.files.ls(folder, detail=True)
    found = []
    for entry in listing:
        path, size = str(entry["name"]), entry.get("size") or 0
        same = path.rstrip("/") == folder.rstrip("/")
        if entry["type"] != "directory":
            if size or not same:  # else the store's own mark of a folder
                found.append(Found(path, "file", size))
        elif not same:
            found.append(Found(path, "folder"))
        else:  # keys with an empty part, which no client lists as a folder of its own
            found.extend(_find_empty_parts(store, folder))
    return found


def _find_empty_parts(store: Store, folder: str) -> list[Found]:
    """Return the objects whose keys go on behind the folder with a second slash: `a//b.jpg` in `a`."""
    if not isinstance(store.files, AsyncFileSystem):
        return []  # only object stores have such names
    start = folder.rstrip("/") + "//"
    with store_errors(store.name(folder)):
        listing = store.files.find(folder.rstrip("/"), prefix="/", detail=True)
    return [
        Found(str(path), "file", facts.get("size") or 0)
        for path, facts in listing.items()
        if str(path).startswith(start) and facts["type"] != "directory" and (facts.get("size") or path[-1] != "/")
    ]


def match_names(store: Store, pattern: str) -> list[Found]:
    """Return what a glob matches (`*`, `?`, `[...]`, and `**` for any folders), sorted; memory holds all.

    Links to folders are told, not followed, so that no circle of them is walked; so are folders that cannot be listed.

    Raises:
        PayloadRefused: the folder where the pattern begins may not be listed.
        PayloadUnavailable: the store fails.
    """
    root = glob_root(pattern)
    if store.scheme == LOCAL:
        with store_errors(store.name(root)):
            begins = Path(root).is_dir()
        parts = [part for part in pattern[len(root) :].split("/") if part]
        found = set(_match_local(root, parts)) if begins else set()
    else:
        with store_errors(store.name(pattern)):
            listing = store.files.glob(pattern, detail=True)
        found = {
            Found(str(path), "folder" if facts["type"] == "directory" else "file", facts.get("size") or 0)
            for path, facts in listing.items()
        }
        matches = re.compile(glob_translate(pattern)).match
        hidden = _find_empty_parts(store, root) if root else []
        found |= {each for each in hidden if matches(re.sub("/+", "/", each.path))}
    return sorted(found, key=lambda each: (each.path, each.kind))


def _match_local(folder: str, parts: Sequence[str]) -> Iterator[Found]:
    part, rest = parts[0], parts[1:]
    if part == "**":
        if not rest:
            yield Found(folder, "folder")
            return
        yield from _match_local(folder, rest)
        for child in _walk(_DISK, folder):
            if child.kind == "folder":
                yield from _match_below(child.path, rest)
            elif child.kind != "file":
                yield child
        return
    if glob.has_magic(part):
        children = _list_children(_DISK, folder)
        matched = [child for child in children if fnmatch.fnmatchcase(posixpath.basename(child.path), part)]
    else:
        path = Path(folder, part)
        kind: Kind = "file" if not path.is_dir() else "folder_link" if path.is_symlink() else "folder"
        matched = [Found(str(path), kind)] if os.path.lexists(path) else []
    for child in matched:
        if not rest:
            yield child
        elif child.kind != "file":
            yield from _match_below(child.path, rest)


def _match_below(folder: str, parts: Sequence[str]) -> Iterator[Found]:
    try:
        yield from _match_local(folder, parts)
    except _UNLISTED as error:
        yield tell_unlisted(folder, error)


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
