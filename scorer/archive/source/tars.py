"""Images in a tar, member by member: nothing is extracted, and no name is ever a path."""

import os
import tarfile
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import IO, cast

from scorer.archive.items import Item, SourceDamaged, Span
from scorer.archive.source.names import describe, printable, shorten_id, source_of
from scorer.archive.source.stores import StoreFile
from scorer.paths import IMAGE_SUFFIXES

MAX_HEADER_BYTES = 2**20
# What tarfile raises on bytes that are no tar: its own errors, and those of numbers and texts that it converts.
_DAMAGE = (tarfile.TarError, ValueError, OverflowError, RecursionError, EOFError)


class _BoundedFile:
    """Keeps a header that claims terabytes, or a negative number of bytes, from being read."""

    def __init__(self, file: StoreFile) -> None:
        self.seek, self.tell, self._file = file.seek, file.tell, file

    def read(self, size: int) -> bytes:
        if not 0 <= size <= MAX_HEADER_BYTES:
            message = f"a header of {size} bytes"
            raise tarfile.ReadError(message)
        return self._file.read(size)


def read_members(file: StoreFile, uri: str, max_bytes: int) -> Iterator[Item]:
    """Yield the images of a tar, those whose name has an image's suffix; `data` is None above `max_bytes`.

    Folders, links, devices and sparse files are passed over, as are sidecars. A name that comes again gets a number.
    Memory holds one member and the images' names.

    Raises:
        SourceDamaged: it is no plain tar, or ends before its end mark.
        PayloadUnavailable: the store fails.
    """
    seen: set[str] = set()
    for name, span in walk_members(file, uri):
        content_id = unique = shorten_id(f"{uri}/{printable(name)}")
        number = 1
        while unique in seen:
            number += 1
            unique = f"{content_id}#{number}"
        seen.add(unique)
        yield Item(unique, source_of(uri), uri, _read_member(file, uri, span, max_bytes), span)


def walk_members(file: StoreFile, uri: str) -> Iterator[tuple[str, Span]]:
    """Yield name and place of each image in a tar, reading headers only; the caller may move the file.

    Raises:
        SourceDamaged: as `read_members`.
        PayloadUnavailable: the store fails.
    """
    archive, end = None, 0
    length = file.seek(0, os.SEEK_END)
    file.seek(0)
    while True:
        try:
            if archive is None:
                archive = tarfile.TarFile(fileobj=cast("IO[bytes]", _BoundedFile(file)), mode="r")
            member = archive.next()
        except _DAMAGE as error:
            raise _damage(uri, end, str(error)) from error
        archive.members = []  # type: ignore[attr-defined] # tarfile would keep them all
        if member is None:
            break
        if member.size < 0 or archive.offset <= end:
            raise _damage(uri, end, "a header leads back")
        span = Span(member.offset_data, member.size)
        is_image = member.isreg() and not member.issparse() and _has_image_name(member.name)
        if is_image and span.offset + span.size <= length:
            yield member.name, span
        if archive.offset > length:  # before tarfile goes there: no disk has places beyond 2^63
            raise _damage(uri, end, "unexpected end of data")
        end = archive.offset
    file.seek(end)
    if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise _damage(uri, end, "no end mark")


def _has_image_name(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES


def _read_member(file: StoreFile, uri: str, span: Span, max_bytes: int) -> bytes | None:
    if span.size > max_bytes:
        return None
    file.seek(span.offset)
    data = file.read(span.size)
    if len(data) < span.size:
        raise _damage(uri, span.offset, "unexpected end of data")
    return data


def _damage(uri: str, offset: int, why: str) -> SourceDamaged:
    return SourceDamaged(f"{describe(uri)} is no plain tar, or damaged or cut short after {offset} bytes ({why})")
