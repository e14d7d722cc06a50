"""Images in a tar, member by member. Nothing is extracted, and no member's name is used as a path."""

import os
import tarfile
from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import IO, cast

from scorer.archive.items import ByteSpan, Item
from scorer.archive.left_out import LeftOut, classify_name
from scorer.archive.source.duplicates import SeenNames
from scorer.errors import SourceDamaged
from scorer.payloads.names import escape_name, shorten_id, show_uri, source_of
from scorer.payloads.stores import StoreFile

MAX_HEADER_BYTES = 2**20  # of all headers of one member
MAX_GLOBAL_CHARACTERS = 2**16
_ZEROS_BYTES = 2**20
# Besides its own errors, tarfile raises these on damaged bytes, when it converts numbers and text.
_OTHER_DAMAGE = (ValueError, OverflowError, RecursionError, EOFError)


class BoundedFile:
    """A file that limits how much `tarfile` reads as the headers of one member.

    Headers may state terabytes or a negative size. Long names, extended headers and maps of sparse files may form long
    chains, and `tarfile` keeps all of a chain in memory.
    """

    def __init__(self, file: "StoreFile | IO[bytes]") -> None:
        self.seek, self.tell, self._file = file.seek, file.tell, file
        self._left: int | None = None

    @contextmanager
    def reading_headers(self) -> Iterator[None]:
        """Limit what is read within this context: the headers of one member."""
        self._left = MAX_HEADER_BYTES
        try:
            yield
        finally:
            self._left = None

    def read(self, size: int) -> bytes:
        """Return the next bytes.

        Raises:
            tarfile.ReadError: the member's headers are longer than `MAX_HEADER_BYTES`.
        """
        if self._left is not None:
            if not 0 <= size <= self._left:
                message = f"a header of {size} bytes, or several with more than {MAX_HEADER_BYTES}"
                raise tarfile.ReadError(message)
            self._left -= size
        return self._file.read(size)


@contextmanager
def _raise_tar_errors() -> Iterator[None]:
    try:
        yield
    except _OTHER_DAMAGE as error:
        raise tarfile.ReadError(str(error)) from error


def open_tar(file: BoundedFile) -> tarfile.TarFile:
    """Open a tar at the file's current position.

    Raises:
        tarfile.TarError: it is not a tar.
    """
    with _raise_tar_errors(), file.reading_headers():
        return tarfile.TarFile(fileobj=cast("IO[bytes]", file), mode="r")


def next_member(archive: tarfile.TarFile, file: BoundedFile) -> tarfile.TarInfo | None:
    """Return the next member of a tar, or None after the last one; `archive` keeps no member.

    Raises:
        tarfile.TarError: it is not a plain tar.
    """
    with _raise_tar_errors(), file.reading_headers():
        member = archive.next()
    if member is not None and (member.size < 0 or archive.offset <= member.offset):
        message = "a header points backwards"
        raise tarfile.ReadError(message)
    archive.members = []  # type: ignore[attr-defined] # tarfile would keep every member
    # Global headers are kept, and each member gets a copy of them.
    if sum(len(name) + len(value) for name, value in archive.pax_headers.items()) > MAX_GLOBAL_CHARACTERS:
        message = f"global headers with more than {MAX_GLOBAL_CHARACTERS} characters"
        raise tarfile.ReadError(message)
    return member


def read_members(file: StoreFile, uri: str, max_bytes: int, left_out: Counter[str] | None = None) -> Iterator[Item]:
    """Yield the images of a tar: members with an image's suffix; `data` is None above `max_bytes`.

    Sidecars, links and devices are left out and counted. A sparse member is an image that cannot be read. A repeated
    name gets a number. Memory holds one member; the names are on disk.

    Raises:
        SourceDamaged: it is not a plain tar, or ends before its end mark.
        PayloadUnavailable: the store fails.
        OSError: the disk for temporary files is full.
    """
    with SeenNames() as seen:
        for name, span in walk_members(file, uri, left_out):
            unique = seen.add_unique(shorten_id(f"{uri}/{escape_name(name)}"))
            if span is None:
                problem = "it is stored sparse in its tar: create the tar without --sparse"
                yield Item(unique, source_of(uri), uri, problem=problem)
            else:
                yield Item(unique, source_of(uri), uri, _read_member(file, uri, span, max_bytes), span)


def walk_members(
    file: StoreFile, uri: str, left_out: Counter[str] | None = None
) -> Iterator[tuple[str, ByteSpan | None]]:
    """Yield the name and span of each image in a tar. Only headers are read; the caller may seek in the file.

    The span of a sparse member is None. Concatenated tars are read as one, as with `tar --ignore-zeros`.

    Raises:
        SourceDamaged: as `read_members`.
        PayloadUnavailable: the store fails.
    """
    left_out = Counter() if left_out is None else left_out
    length = file.seek(0, os.SEEK_END)
    start: int | None = 0
    while start is not None:
        end = yield from _walk_tar(file, uri, start, length, left_out)
        start = _find_next_data(file, end)


def _walk_tar(
    file: StoreFile, uri: str, start: int, length: int, left_out: Counter[str]
) -> Generator[tuple[str, ByteSpan | None], None, int]:
    """Walk the tar that begins at byte `start`; return the offset of its end mark."""
    archive, end = None, start
    bounded = BoundedFile(file)
    file.seek(start)
    while True:
        try:
            archive = archive or open_tar(bounded)
            member = next_member(archive, bounded)
        except tarfile.TarError as error:
            raise _describe_damage(uri, end, str(error)) from error
        if member is None:
            break
        if image := _select_image(member, length, left_out):
            yield image
        if archive.offset > length:  # checked before tarfile seeks there, which fails beyond 2^63
            raise _describe_damage(uri, end, "unexpected end of data")
        end = archive.offset
    file.seek(end)
    if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        why = "data after the end mark that is not a tar" if start and end == start else "no end mark"
        raise _describe_damage(uri, end, why)
    return end


def _select_image(member: tarfile.TarInfo, length: int, left_out: Counter[str]) -> tuple[str, ByteSpan | None] | None:
    """Return the name and span of a member that is a complete image; count every other member."""
    kind = classify_name(member.name)
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


def _find_next_data(file: StoreFile, offset: int) -> int | None:
    """Return the offset of the first block from `offset` on that is not all zeros, or None."""
    file.seek(offset)
    while data := file.read(_ZEROS_BYTES):
        if rest := data.lstrip(b"\0"):
            return offset + (len(data) - len(rest)) // tarfile.BLOCKSIZE * tarfile.BLOCKSIZE
        offset += len(data)
    return None


def _read_member(file: StoreFile, uri: str, span: ByteSpan, max_bytes: int) -> bytes | None:
    if span.size > max_bytes:
        return None
    file.seek(span.offset)
    data = file.read(span.size)
    if len(data) < span.size:
        raise _describe_damage(uri, span.offset, "unexpected end of data")
    return data


def _describe_damage(uri: str, offset: int, why: str) -> SourceDamaged:
    return SourceDamaged(f"{show_uri(uri)} is not a plain tar, or damaged or truncated after {offset} bytes ({why})")
