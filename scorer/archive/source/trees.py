"""The files in a folder or of a glob, on a disk or in a store. Nothing is skipped silently."""

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

# Errors that concern one folder, while others can be listed.
_UNLISTED = (PayloadRefused, UsageError, FileNotFoundError, NotADirectoryError)
_DISK = Store(LOCAL, None)
Kind = Literal["file", "folder", "folder_link", "unlisted"]


@dataclass(frozen=True, slots=True)
class FoundPath:
    """An entry of a folder, or a match of a glob.

    Attributes:
        path: in the store.
        kind: "folder_link" is a link to a folder, "unlisted" a folder that cannot be listed.
        size: of a file, in bytes, where the listing states it.
        problem: why the path cannot be listed or opened; otherwise empty.
    """

    path: str
    kind: Kind = "file"
    size: int | None = None
    problem: str = ""


def list_folder(store: Store, folder: str) -> Iterator[FoundPath]:
    """Yield every file below a folder, sorted by name in each folder, links to folders, and unlisted folders.

    Links to files count as files; links to folders are not followed. A folder below that cannot be listed is yielded as
    "unlisted", and the listing continues. Memory holds the names of one folder (of an object store, its whole answer
    for one folder: a kilobyte a file); name the files of a folder with many millions in a manifest instead.

    Raises:
        FileNotFoundError: there is no such folder.
        PayloadRefused: there is no permission to list the folder itself.
        PayloadUnavailable: the store fails.
    """
    return (child for child in _walk(store, folder) if child.kind != "folder")


def _walk(store: Store, folder: str) -> Iterator[FoundPath]:
    stack = [(folder, _list_children(store, folder))]  # no recursion: folders can be thousands of levels deep
    while stack:
        path, children = stack[-1]
        try:
            child = next(children, None)
        except _UNLISTED as error:
            if len(stack) == 1:
                raise
            child = describe_unlisted(path, error)
        if child is None or child.kind == "unlisted":
            stack.pop()
        if child is not None:
            yield child
            if child.kind == "folder":
                stack.append((child.path, _list_children(store, child.path)))


def describe_unlisted(folder: str, error: Exception) -> FoundPath:
    """Return the entry of a folder that cannot be listed."""
    why = "it was removed after its parent was listed" if isinstance(error, OSError) else str(error)
    return FoundPath(folder, "unlisted", problem=f"a folder that could not be listed: {why}; then start a new run")


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
        pass  # for example, a link to itself: reading it reports the error
    return "file"


def local_size(path: str) -> int | None:
    """Return a local file's size in bytes; None if it cannot be read, which reading it reports."""
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
            if size or not same:  # otherwise it is the store's placeholder of a folder
                found.append(FoundPath(path, "file", size))
        elif not same:
            found.append(FoundPath(path, "folder"))
        else:  # keys with an empty part, which clients do not list as a folder
            found.extend(_find_empty_parts(store, folder))
    return found


def _find_empty_parts(store: Store, folder: str) -> list[FoundPath]:
    """Return the objects whose keys have a second slash after the folder: `a//b.jpg` in `a`."""
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
    """Return the matches of a glob (`*`, `?`, `[...]`, and `**` for any folders), sorted; memory holds all of them.

    Links to folders are returned but not followed, because they may form a cycle. Folders that cannot be listed are
    returned as "unlisted".

    Raises:
        PayloadRefused: there is no permission to list the folder where the pattern begins.
        PayloadUnavailable: the store fails.
    """
    root = glob_root(pattern)
    if store.scheme == LOCAL:
        with store_errors(store.name(root)):
            exists = Path(root).is_dir()
        parts = [part for part in pattern[len(root) :].split("/") if part]
        found = set(_match_local(root, parts)) if exists else set()
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
        yield describe_unlisted(folder, error)


def glob_root(pattern: str) -> str:
    """Return the deepest folder that contains everything that a glob can match."""
    while glob.has_magic(pattern):
        pattern = posixpath.dirname(pattern)
    return pattern
