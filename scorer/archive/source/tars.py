"""Images in a tar, member by member: nothing is extracted, and no name is ever a path."""

import os
import tarfile
from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import IO, cast

from scorer.archive.items import ByteSpan, Item
from scorer.archive.left_out import LeftOut, judge_name
from scorer.archive.source.duplicates import Seen
from scorer.errors import SourceDamaged
from scorer.payloads.names import escape_name, shorten_id, show_uri, source_of
from scorer.payloads.stores import StoreFile

MAX_HEADER_BYTES = 2**20  # of one member, all of its headers together
MAX_GLOBAL_CHARACTERS = 2**16
_ZEROS_BYTES = 2**20
# What tarfile raises on bytes that are no tar besides its own errors: those of numbers and texts that it converts.
_OTHER_DAMAGE = (ValueError, OverflowError, RecursionError, EOFError)


class BoundedFile:
    """Keeps headers that claim terabytes, or a negative number of bytes, or go on and on, from being read.

    Long names, extended headers and maps of sparse files come as chains, of which `tarfile` holds every link.
    """

    def __init__(self, file: "StoreFile | IO[bytes]") -> None:
        self.seek, self.tell, self._file = file.seek, file.tell, file
        self._left: int | None = None

    @contextmanager
    def reading_headers(self) -> Iterator[None]:
        """Bound what is read meanwhile, which is the headers of one member."""
        self._left = MAX_HEADER_BYTES
        try:
            yield
        finally:
            self._left = None

    def read(self, size: int) -> bytes:
        """Return bytes from here.

        Raises:
            tarfile.ReadError: the member's headers are longer than any real ones.
        """
        if self._left is not None:
            if not 0 <= size <= self._left:
                message = f"a header of {size} bytes, or several with more than {MAX_HEADER_BYTES}"
                raise tarfile.ReadError(message)
            self._left -= size
        return self._file.read(size)


@contextmanager
def _as_tar_error() -> Iterator[None]:
    try:
        yield
    except _OTHER_DAMAGE as error:
        raise tarfile.ReadError(str(error)) from error


def open_tar(file: BoundedFile) -> tarfile.TarFile:
    """Open a tar where the file stands.

    Raises:
        tarfile.TarError: it is none.
    """
    with _as_tar_error(), file.reading_headers():
        return tarfile.TarFile(fileobj=cast("IO[bytes]", file), mode="r")


def next_member(archive: tarfile.TarFile, file: BoundedFile) -> tarfile.TarInfo | None:
    """Return the next member of a tar, None behind the last one; `archive` keeps none of them.

    Raises:
        tarfile.TarError: it is no plain tar.
    """
    with _as_tar_error(), file.reading_headers():
        member = archive.next()
    if member is not None and (member.size < 0 or archive.offset <= member.offset):
        message = "a header leads back"
        raise tarfile.ReadError(message)
    archive.members = []  # type: ignore[attr-defined] # tarfile would keep them all
    # Global headers stay, and each member gets a copy of them.
    if sum(len(name) + len(value) for name, value in archive.pax_headers.items()) > MAX_GLOBAL_CHARACTERS:
        message = "global headers without end"
        raise tarfile.ReadError(message)
    return member


def read_members(file: StoreFile, uri: str, max_bytes: int, left_out: Counter[str] | None = None) -> Iterator[Item]:
    """Yield the images of a tar, those whose name has an image's suffix; `data` is None above `max_bytes`.

    Sidecars, links and devices are left out and counted. A sparse member stands for an image that cannot be read. A
    name that comes again gets a number. Memory holds one member; the names are on disk.

    Raises:
        SourceDamaged: it is no plain tar, or ends before its end mark.
        PayloadUnavailable: the store fails.
        OSError: the disk for temporary files is full.
    """
    with Seen() as seen:
        for name, span in walk_members(file, uri, left_out):
            unique = seen.number(shorten_id(f"{uri}/{escape_name(name)}"))
            if span is None:
                problem = "stored sparse in its tar: make the tar without --sparse"
                yield Item(unique, source_of(uri), uri, problem=problem)
            else:
                yield Item(unique, source_of(uri), uri, _read_member(file, uri, span, max_bytes), span)


def walk_members(
    file: StoreFile, uri: str, left_out: Counter[str] | None = None
) -> Iterator[tuple[str, ByteSpan | None]]:
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
) -> Generator[tuple[str, ByteSpan | None], None, int]:
    """Walk the tar that begins at byte `start`; return where its end mark is."""
    archive, end = None, start
    bounded = BoundedFile(file)
    file.seek(start)
    while True:
        try:
            archive = archive or open_tar(bounded)
            member = next_member(archive, bounded)
        except tarfile.TarError as error:
            raise _damage(uri, end, str(error)) from error
        if member is None:
            break
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


def _take_image(member: tarfile.TarInfo, length: int, left_out: Counter[str]) -> tuple[str, ByteSpan | None] | None:
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
    span = ByteSpan(member.offset_data, member.size)
    return (member.name, span) if span.offset + span.size <= length else None


def _find_data(file: StoreFile, place: int) -> int | None:
    """Return the first block from byte `place` on that is not all zeros, or None."""
    file.seek(place)
    while data := file.read(_ZEROS_BYTES):
        if rest := data.lstrip(b"\0"):
            return place + (len(data) - len(rest)) // tarfile.BLOCKSIZE * tarfile.BLOCKSIZE
        place += len(data)
    return None


def _read_member(file: StoreFile, uri: str, span: ByteSpan, max_bytes: int) -> bytes | None:
    if span.size > max_bytes:
        return None
    file.seek(span.offset)
    data = file.read(span.size)
    if len(data) < span.size:
        raise _damage(uri, span.offset, "unexpected end of data")
    return data


def _damage(uri: str, offset: int, why: str) -> SourceDamaged:
    return SourceDamaged(f"{show_uri(uri)} is no plain tar, or damaged or cut short after {offset} bytes ({why})")
