"""What lies in a folder or matches a glob, on a disk or in a store: nothing is passed over without being told."""

import fnmatch
import glob
import os
import posixpath
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fsspec.asyn import AsyncFileSystem
from fsspec.utils import glob_translate

from scorer.errors import PayloadRefused, UsageError
from scorer.payloads.stores import LOCAL, Store, store_errors

# Why a folder cannot be listed while others can.
_UNLISTED = (PayloadRefused, UsageError, FileNotFoundError, NotADirectoryError)
_DISK = Store(LOCAL, None)
Kind = Literal["file", "folder", "folder_link", "unlisted"]


@dataclass(frozen=True, slots=True)
class FoundPath:
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


def list_folder(store: Store, folder: str) -> Iterator[FoundPath]:
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


def _walk(store: Store, folder: str) -> Iterator[FoundPath]:
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


def tell_unlisted(folder: str, error: Exception) -> FoundPath:
    """Return what stands for a folder that cannot be listed."""
    gone = "is gone since its parent was listed" if isinstance(error, OSError) else str(error)
    return FoundPath(folder, "unlisted", problem=f"a folder that could not be listed: {gone}; then start a new run")


def _list_children(store: Store, folder: str) -> Iterator[FoundPath]:
    if store.scheme != LOCAL:
        yield from sorted(_list_store(store, folder), key=lambda child: (child.path, child.kind))
        return
    with store_errors(Path(folder).as_uri()), os.scandir(folder) as entries:
        found = sorted((entry.name, _kind_of(entry)) for entry in entries)
    for name, kind in found:
        yield FoundPath(str(Path(folder, name)), kind)


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


def _list_store(store: Store, folder: str) -> list[FoundPath]:
    with store_errors(store.name(folder)):
        listing = store.files.ls(folder, detail=True)
    found = []
    for entry in listing:
        path, size = str(entry["name"]), entry.get("size") or 0
        same = path.rstrip("/") == folder.rstrip("/")
        if entry["type"] != "directory":
            if size or not same:  # else the store's own mark of a folder
                found.append(FoundPath(path, "file", size))
        elif not same:
            found.append(FoundPath(path, "folder"))
        else:  # keys with an empty part, which no client lists as a folder of its own
            found.extend(_find_empty_parts(store, folder))
    return found


def _find_empty_parts(store: Store, folder: str) -> list[FoundPath]:
    """Return the objects whose keys go on behind the folder with a second slash: `a//b.jpg` in `a`."""
    if not isinstance(store.files, AsyncFileSystem):
        return []  # only object stores have such names
    start = folder.rstrip("/") + "//"
    with store_errors(store.name(folder)):
        listing = store.files.find(folder.rstrip("/"), prefix="/", detail=True)
    return [
        FoundPath(str(path), "file", facts.get("size") or 0)
        for path, facts in listing.items()
        if str(path).startswith(start) and facts["type"] != "directory" and (facts.get("size") or path[-1] != "/")
    ]


def match_names(store: Store, pattern: str) -> list[FoundPath]:
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
            FoundPath(str(path), "folder" if facts["type"] == "directory" else "file", facts.get("size") or 0)
            for path, facts in listing.items()
        }
        matches = re.compile(glob_translate(pattern)).match
        hidden = _find_empty_parts(store, root) if root else []
        found |= {each for each in hidden if matches(re.sub("/+", "/", each.path))}
    return sorted(found, key=lambda each: (each.path, each.kind))


def _match_local(folder: str, parts: Sequence[str]) -> Iterator[FoundPath]:
    part, rest = parts[0], parts[1:]
    if part == "**":
        if not rest:
            yield FoundPath(folder, "folder")
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
        matched = [FoundPath(str(path), kind)] if os.path.lexists(path) else []
    for child in matched:
        if not rest:
            yield child
        elif child.kind != "file":
            yield from _match_below(child.path, rest)


def _match_below(folder: str, parts: Sequence[str]) -> Iterator[FoundPath]:
    try:
        yield from _match_local(folder, parts)
    except _UNLISTED as error:
        yield tell_unlisted(folder, error)


def glob_root(pattern: str) -> str:
    """Return the folder below which everything lies that a glob can match."""
    while glob.has_magic(pattern):
        pattern = posixpath.dirname(pattern)
    return pattern
