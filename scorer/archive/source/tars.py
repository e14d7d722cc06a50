"""Images in a tar, member by member: nothing is extracted, and no name is ever a path."""

import os
import tarfile
from collections import Counter
from collections.abc import Generator, Iterator
from typing import IO, cast

from scorer.archive.items import Item, SourceDamaged, Span
from scorer.archive.left_out import LeftOut, judge_name
from scorer.archive.source.names import describe, printable, shorten_id, source_of
from scorer.archive.source.stores import StoreFile

MAX_HEADER_BYTES = 2**20
_ZEROS_BYTES = 2**20
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


def read_members(file: StoreFile, uri: str, max_bytes: int, left_out: Counter[str] | None = None) -> Iterator[Item]:
    """Yield the images of a tar, those whose name has an image's suffix; `data` is None above `max_bytes`.

    Sidecars, links and devices are left out and counted. A sparse member stands for an image that cannot be read. A
    name that comes again gets a number. Memory holds one member and the images' names.

    Raises:
        SourceDamaged: it is no plain tar, or ends before its end mark.
        PayloadUnavailable: the store fails.
    """
    seen: set[str] = set()
    for name, span in walk_members(file, uri, left_out):
        content_id = unique = shorten_id(f"{uri}/{printable(name)}")
        number = 1
        while unique in seen:
            number += 1
            unique = f"{content_id}#{number}"
        seen.add(unique)
        if span is None:
            yield Item(unique, source_of(uri), uri, problem="stored sparse in its tar: make the tar without --sparse")
        else:
            yield Item(unique, source_of(uri), uri, _read_member(file, uri, span, max_bytes), span)


def walk_members(file: StoreFile, uri: str, left_out: Counter[str] | None = None) -> Iterator[tuple[str, Span | None]]:
    """Yield name and place of each image in a tar, reading headers only; the caller may move the file.

    The place of a sparse member is None. Tars that were put behind one another are read as one, as by readers that
    ignore zeros.

    Raises:
        SourceDamaged: as `read_members`.
        PayloadUnavailable: the store fails.
    """
    left_out = Counter() if left_out is None else left_out
    length = file.seek(0, os.SEEK_END)
    start: int | None = 0
    while start is not None:
        end = yield from _walk_one(file, uri, start, length, left_out)
        start = _find_data(file, end)


def _walk_one(
    file: StoreFile, uri: str, start: int, length: int, left_out: Counter[str]
) -> Generator[tuple[str, Span | None], None, int]:
    """Walk the tar that begins at byte `start`; return where its end mark is."""
    archive, end = None, start
    file.seek(start)
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
        if image := _take_image(member, length, left_out):
            yield image
        if archive.offset > length:  # before tarfile goes there: no disk has places beyond 2^63
            raise _damage(uri, end, "unexpected end of data")
        end = archive.offset
    file.seek(end)
    if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        why = "data that is no tar behind the end mark" if start and end == start else "no end mark"
        raise _damage(uri, end, why)
    return end


def _take_image(member: tarfile.TarInfo, length: int, left_out: Counter[str]) -> tuple[str, Span | None] | None:
    """Return name and place of a member that is an image and whole; count what else is left out."""
    kind = judge_name(member.name)
    if member.isdir():
        return None
    if kind is None and not member.isreg():
        kind = LeftOut.TAR_LINK if member.issym() or member.islnk() else LeftOut.SPECIAL
    if kind:
        left_out[kind] += 1
        return None
    if member.issparse():
        return member.name, None
    span = Span(member.offset_data, member.size)
    return (member.name, span) if span.offset + span.size <= length else None


def _find_data(file: StoreFile, place: int) -> int | None:
    """Return the first block from byte `place` on that is not all zeros, or None."""
    file.seek(place)
    while data := file.read(_ZEROS_BYTES):
        if rest := data.lstrip(b"\0"):
            return place + (len(data) - len(rest)) // tarfile.BLOCKSIZE * tarfile.BLOCKSIZE
        place += len(data)
    return None


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
