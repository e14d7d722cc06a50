"""The SOURCE arguments of a scan."""

import glob
import posixpath
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from braceexpand import braceexpand

from scorer.archive.left_out import COMPRESSED, TAR
from scorer.archive.source.manifests import is_manifest
from scorer.archive.source.trees import glob_root
from scorer.errors import UsageError
from scorer.payloads.names import escape_name, show_uri
from scorer.payloads.stores import LOCAL, Store, folder_exists, open_store, read_version, store_errors


@dataclass(frozen=True, slots=True)
class Archive:
    """The input of a scan, as the command line names it.

    Attributes:
        sources: folders, globs, images, tars and manifests; braces are expanded as in a shell.
        uri_column: of Parquet, CSV and JSONL manifests, with the images' URIs; excludes `bytes_column`.
        bytes_column: of Parquet manifests, with the images' bytes.
        faces_column: of any manifest, with face boxes.
    """

    sources: tuple[str, ...]
    uri_column: str | None = None
    bytes_column: str | None = None
    faces_column: str | None = None


@dataclass(frozen=True, slots=True)
class Source:
    """One SOURCE after its braces were expanded.

    Attributes:
        argument: as on the command line, with its braces.
        path: in the store.
        kind: of the file or folder at `path`.
        named: the URI that the source permits reading, a folder if it ends in "/"; None if none is needed.
    """

    argument: str
    store: Store
    path: str
    kind: Literal["folder", "glob", "tar", "manifest", "image"]
    named: str | None


def find_sources(archive: Archive) -> list[Source]:
    """Return the sources that the arguments name, in their order.

    Raises:
        UsageError: an argument names nothing, or something that cannot be scanned, or the columns do not fit.
        PayloadUnavailable: a store fails.
    """
    if archive.uri_column and archive.bytes_column:
        message = "--uri-column and --bytes-column exclude each other: a manifest's rows contain URIs or bytes"
        raise UsageError(message)
    if archive.faces_column and not (archive.uri_column or archive.bytes_column):
        message = "--faces-column needs --uri-column or --bytes-column, too: it is a column of a manifest"
        raise UsageError(message)
    sources = [_find(name, argument) for argument in archive.sources for name in _expand_braces(argument)]
    if (archive.uri_column or archive.bytes_column) and not any(each.kind in {"manifest", "glob"} for each in sources):
        message = "a column is named, but no SOURCE is a manifest (.parquet, .csv or .jsonl)"
        raise UsageError(message)
    return sources


def _expand_braces(argument: str) -> Iterator[str]:
    if "{" not in argument or ("://" not in argument and Path(argument).exists()):
        yield argument
        return
    try:
        yield from braceexpand(argument)
    except ValueError as error:
        message = f"{escape_name(argument)} has unbalanced braces"
        raise UsageError(message) from error


def _find(name: str, argument: str) -> Source:
    scheme = name.partition("://")[0].lower()
    if "::" in name or scheme in {"http", "https"}:
        message = (
            f"{show_uri(name)} cannot be a SOURCE: sources are folders, globs, tars and manifests, local or in an "
            "object store; list https:// images in a manifest, and their hosts in payloads.https_hosts"
        )
        raise UsageError(message)
    store, path = open_store(name)
    if folder_exists(store, path):
        return Source(argument, store, path, "folder", store.name(path).rstrip("/") + "/")
    if glob.has_magic(path) and not _exists_as_file(store, path):
        return Source(argument, store, path, "glob", _glob_root(store, path))
    if not _exists_as_file(store, path):
        message = f"{escape_name(name)} does not exist"
        raise UsageError(message)
    kind = classify_file(path)
    return Source(argument, store, path, kind, None if kind == "tar" else _file_root(store, path))


def classify_file(path: str) -> Literal["tar", "manifest", "image"]:
    """Return the kind of a file, by its name.

    Raises:
        UsageError: it is compressed.
    """
    suffix = PurePosixPath(path).suffix.lower()
    if suffix in COMPRESSED:
        message = (
            f"{escape_name(path)} is compressed: unpack it, or make a plain tar ({TAR}) of it, so that single images "
            "can be read"
        )
        raise UsageError(message)
    if suffix == TAR:
        return "tar"
    return "manifest" if is_manifest(path) else "image"


def _exists_as_file(store: Store, path: str) -> bool:
    if store.scheme == LOCAL:
        try:
            with store_errors(store.name(path)):
                Path(path).lstat()  # a broken link exists, too
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True
    try:
        read_version(store.name(path))
    except (FileNotFoundError, IsADirectoryError):
        return False
    return True


def _glob_root(store: Store, pattern: str) -> str:
    if is_manifest(pattern) and store.scheme != LOCAL:
        return _bucket(store, pattern)
    return store.name(glob_root(pattern)).rstrip("/") + "/"


def _file_root(store: Store, path: str) -> str:
    if not is_manifest(path):
        return store.name(path)
    if store.scheme != LOCAL:
        return _bucket(store, path)
    return store.name(posixpath.dirname(path)).rstrip("/") + "/"


def _bucket(store: Store, path: str) -> str:
    return store.name(path.lstrip("/").partition("/")[0]) + "/"
