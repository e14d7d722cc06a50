"""What a source is made of: images that are listed, and containers that are read as a stream."""

import posixpath
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

from scorer.archive.items import Item
from scorer.archive.source.access import Access
from scorer.archive.source.containers import Container, describe_tar, split_rows
from scorer.archive.source.img2dataset import find_shards, list_shards
from scorer.archive.source.manifests import is_manifest, list_manifest
from scorer.archive.source.names import describe, printable, shorten_id
from scorer.archive.source.sources import TAR, Archive, Source
from scorer.archive.source.stores import LOCAL, list_folder, local_size, match_names
from scorer.paths import IMAGE_SUFFIXES, UsageError


@dataclass(frozen=True, slots=True)
class Listed:
    """An image that a list names; `size` in bytes where the list knows it."""

    item: Item
    size: int | None


Piece = Listed | Container | None  # None: a manifest's row that names no image


def list_pieces(source: Source, archive: Archive, access: Access, shard_images: int) -> Iterator[Piece]:
    """Yield what a source is made of: folders sorted by name, the matches of a glob sorted, manifests in their order.

    Args:
        source: one of `find_sources(archive)`.
        archive: the columns of manifests.
        access: refuses a manifest whose first image may not be read, because so may none of the others.
        shard_images: rows of a Parquet manifest with bytes that make one container.

    Raises:
        UsageError: a manifest's columns are not what they should be.
        SourceDamaged: a manifest cannot be read to its end.
        PayloadUnavailable: the store fails.
    """
    if source.kind == "glob":
        folders: set[str] = set()
        for path, is_folder in match_names(source.store, source.path):
            if any(str(parent) in folders for parent in PurePosixPath(path).parents):
                continue  # `**` matches a folder and then what is in it
            if is_folder:
                folders.add(path)
                yield from _list_folder(source, path, shard_images)
            elif _is_known(path):
                yield from _list_file(source, path, archive, access, shard_images)
    elif source.kind == "folder":
        yield from _list_folder(source, source.path, shard_images)
    else:
        yield from _list_file(source, source.path, archive, access, shard_images)


def _is_known(path: str) -> bool:
    suffix = PurePosixPath(path).suffix.lower()
    return suffix == TAR or suffix in IMAGE_SUFFIXES or is_manifest(path)


def _list_folder(source: Source, folder: str, shard_images: int) -> Iterator[Piece]:
    shards = find_shards(source.store, folder)
    if shards is not None:
        yield from list_shards(source.store, folder, shards, shard_images)
        return
    for path, size in list_folder(source.store, folder, IMAGE_SUFFIXES):
        below = path[len(folder) :].lstrip("/")
        first, slash, _ = below.partition("/")
        yield _listed(source, path, first if slash else posixpath.basename(folder.rstrip("/")), size)


def _list_file(source: Source, path: str, archive: Archive, access: Access, shard_images: int) -> Iterator[Piece]:
    uri = source.store.name(path)
    if PurePosixPath(path).suffix.lower() == TAR:
        yield describe_tar(uri)
    elif not is_manifest(path):
        size = local_size(path) if source.store.scheme == LOCAL else None
        yield _listed(source, path, posixpath.basename(posixpath.dirname(path)), size)
    elif archive.bytes_column and path.lower().endswith(".parquet"):
        yield from split_rows(uri, archive.bytes_column, archive.faces_column, shard_images)
    elif archive.uri_column:
        yield from _list_rows(uri, archive.uri_column, archive.faces_column, access)
    else:
        column = "--uri-column" if archive.bytes_column else "--uri-column or (Parquet only) --bytes-column"
        message = f"{describe(uri)} is a manifest: name its column of images with {column}"
        raise UsageError(message)


def _listed(source: Source, path: str, group: str, size: int | None) -> Listed:
    uri = source.store.name(path)
    return Listed(Item(shorten_id(printable(uri)), printable(group), printable(uri)), size)


def _list_rows(manifest: str, uri_column: str, faces_column: str | None, access: Access) -> Iterator[Piece]:
    first = True
    for item in list_manifest(manifest, uri_column, faces_column):
        if item is None:
            yield None
            continue
        if first and not access.admits(item.uri):
            message = (
                f"{describe(manifest)} names {describe(item.uri)}, which may not be read: list its scheme in "
                "payloads.schemes (and a file's folder in payloads.file_roots), or its host in payloads.https_hosts"
            )
            raise UsageError(message)
        first = False
        yield Listed(item, None)
