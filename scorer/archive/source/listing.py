"""The contents of a source: images that a plan lists, and containers that are read as a stream."""

import posixpath
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

from scorer.archive.items import Item
from scorer.archive.left_out import TAR, LeftOut, classify_name
from scorer.archive.source.access import Access
from scorer.archive.source.containers import Container, describe_tar, split_rows
from scorer.archive.source.img2dataset import find_shards, is_part, list_shards
from scorer.archive.source.manifests import is_manifest, list_manifest
from scorer.archive.source.sources import Archive, Source
from scorer.archive.source.trees import FoundPath, describe_unlisted, glob_root, list_folder, local_size, match_names
from scorer.errors import PayloadRefused, UsageError
from scorer.payloads.names import escape_name, shorten_id, show_uri
from scorer.payloads.stores import LOCAL


@dataclass(frozen=True, slots=True)
class ListedImage:
    """An image that the plan lists; `size` in bytes where the listing states it."""

    item: Item
    size: int | None


ListingEntry = ListedImage | Container | LeftOut


def list_source(source: Source, archive: Archive, access: Access, shard_images: int) -> Iterator[ListingEntry]:
    """Yield the contents of a source: folders sorted by name, matches of a glob sorted, manifests in their order.

    Args:
        source: one of `find_sources(archive)`.
        archive: the columns of manifests.
        access: what may be read; a manifest whose first image is not permitted is refused.
        shard_images: rows of a Parquet manifest with bytes in one container.

    Raises:
        UsageError: a manifest's columns are not valid, or a file cannot be opened.
        SourceDamaged: a manifest cannot be read to its end.
        PayloadRefused: a store refuses this machine, or this user has no permission for a named folder or manifest.
        PayloadUnavailable: the store fails.
    """
    try:
        if source.kind == "glob":
            yield from _list_matches(source, archive, access, shard_images)
        elif source.kind == "folder":
            yield from _list_folder(source, source.path, source.path, shard_images)
        else:
            yield from _list_file(source, source.path, archive, access, shard_images)
    except (FileNotFoundError, NotADirectoryError) as error:
        message = (
            f"{escape_name(source.argument)} names a file that does not exist (a broken link?): {_name_missing(error)}"
        )
        raise UsageError(message) from error


def _name_missing(error: OSError) -> str:
    return escape_name(str(error.filename or (error.args[0] if error.args else "it no longer exists")))


def _list_matches(source: Source, archive: Archive, access: Access, shard_images: int) -> Iterator[ListingEntry]:
    root = glob_root(source.path)
    folders: set[PurePosixPath] = set()
    for match in match_names(source.store, source.path):
        path = PurePosixPath(match.path)
        if not folders.isdisjoint((path, *path.parents)):
            continue  # `**` matches a folder and then its contents
        if match.kind == "folder":
            folders.add(path)
            try:
                yield from _list_folder(source, match.path, root, shard_images)
            except PayloadRefused as error:
                yield _list_image(source, describe_unlisted(match.path, error), "")
        elif match.kind == "file" and path.suffix.lower() == TAR:
            try:
                yield describe_tar(source.store.name(match.path))
            except (FileNotFoundError, UsageError, PayloadRefused) as error:
                problem = "no such file" if isinstance(error, OSError) else str(error)
                yield _list_image(source, FoundPath(match.path, problem=problem), path.parent.name)
        elif match.kind == "file" and is_manifest(match.path):
            yield from _list_file(source, match.path, archive, access, shard_images)
        else:
            yield _classify(source, match, root, path.parent.name)


def _list_folder(source: Source, folder: str, root: str, shard_images: int) -> Iterator[ListingEntry]:
    shards = find_shards(source.store, folder)
    if shards is not None:
        yield from list_shards(source.store, folder, shards, shard_images)
    for found in list_folder(source.store, folder):
        below = found.path[len(folder) :].lstrip("/")
        first, slash, _ = below.partition("/")
        if shards is None or slash or not is_part(below):
            yield _classify(source, found, root, first if slash else posixpath.basename(folder.rstrip("/")))


def _classify(source: Source, found: FoundPath, root: str, group: str) -> ListedImage | LeftOut:
    if found.kind == "folder_link":
        return LeftOut.FOLDER_LINK
    below = found.path[len(root) :].strip("/") or posixpath.basename(found.path.rstrip("/"))
    left_out = classify_name(below) if found.kind == "file" else None
    return left_out or _list_image(source, found, group)


def _list_file(
    source: Source, path: str, archive: Archive, access: Access, shard_images: int
) -> Iterator[ListingEntry]:
    uri = source.store.name(path)
    if PurePosixPath(path).suffix.lower() == TAR:
        yield describe_tar(uri)
    elif not is_manifest(path):
        yield _list_image(source, FoundPath(path), posixpath.basename(posixpath.dirname(path)))
    elif archive.bytes_column and path.lower().endswith(".parquet"):
        yield from split_rows(uri, archive.bytes_column, archive.faces_column, shard_images)
    elif archive.uri_column:
        yield from _list_rows(uri, archive.uri_column, archive.faces_column, access)
    else:
        column = "--uri-column" if archive.bytes_column else "--uri-column or (Parquet only) --bytes-column"
        message = f"{show_uri(uri)} is a manifest: name its column with the images with {column}"
        raise UsageError(message)


def _list_image(source: Source, found: FoundPath, group: str) -> ListedImage:
    uri = escape_name(source.store.name(found.path))
    size = local_size(found.path) if source.store.scheme == LOCAL else found.size
    return ListedImage(Item(shorten_id(uri), escape_name(group), uri, problem=found.problem), size)


def _list_rows(manifest: str, uri_column: str, faces_column: str | None, access: Access) -> Iterator[ListingEntry]:
    first = True
    for item in list_manifest(manifest, uri_column, faces_column):
        if isinstance(item, LeftOut):
            yield item
            continue
        if first and not access.admits(item.uri):
            message = (
                f"{show_uri(manifest)} names {show_uri(item.uri)}, which the settings do not permit: list its scheme "
                "in payloads.schemes (and a file's folder in payloads.file_roots), or its host in payloads.https_hosts"
            )
            raise UsageError(message)
        first = False
        yield ListedImage(item, None)
