"""Page headers of a Parquet column, read before a library allocates memory for the sizes that they state.

Only the headers are read (Thrift's compact protocol); the pages' data is skipped.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow.parquet as pq

from scorer.payloads.stores import StoreFile

MAX_HEADER_BYTES = 2**20  # a header has a few dozen bytes, more with statistics; PyArrow's limit is 16 MiB
_FIRST_BYTES = 1024
_MAX_DEPTH = 8
_COUNT_FIELDS = {0: 5, 2: 7, 3: 8}  # by the page's type: the header's field with the number of values
_DICTIONARY = 2


class BadPages(ValueError):
    """A column's pages are not where its metadata states, or state impossible sizes."""


@dataclass(frozen=True, slots=True)
class Page:
    """The sizes that one page's header states.

    Attributes:
        size: bytes after inflation.
        stored: bytes in the file.
        values: how many values, nulls included.
        dictionary: it contains the values that later pages refer to, each any number of times.
    """

    size: int
    stored: int
    values: int
    dictionary: bool


def read_pages(file: StoreFile, column: pq.ColumnChunkMetaData) -> Iterator[Page]:
    """Yield the sizes of a column's pages in a row group.

    Raises:
        BadPages: a size is impossible.
        PayloadUnavailable: the store fails.
    """
    offset = column.data_page_offset
    if column.has_dictionary_page and 0 < column.dictionary_page_offset < offset:
        offset = column.dictionary_page_offset
    length, left = file.seek(0, os.SEEK_END), column.num_values
    if not 0 <= offset <= length:
        message = f"a column that begins at byte {offset} of a file of {length}"
        raise BadPages(message)
    while left > 0:
        header, offset = _read_header(file, offset, length)
        stored, size = header.get(3), header.get(2)
        counts = header.get(_COUNT_FIELDS.get(header.get(1) or 0, 0)) or {}
        values = counts.get(1) or 0
        if not isinstance(stored, int) or not isinstance(size, int) or min(stored, size, values) < 0:
            message = "a page without a size"
            raise BadPages(message)
        offset += stored
        if offset > length:
            message = f"a page that ends at byte {offset} of a file of {length}"
            raise BadPages(message)
        dictionary = header.get(1) == _DICTIONARY
        left -= 0 if dictionary else values
        yield Page(size, stored, values, dictionary)


def _read_header(file: StoreFile, offset: int, end: int) -> tuple[dict[int, Any], int]:
    """Return the header at byte `offset`, and its end."""
    size = _FIRST_BYTES
    while True:
        file.seek(offset)
        data = file.read(min(size, end - offset))
        try:
            fields, length = _read_struct(data, 0, 0)
        except IndexError:
            if size >= min(MAX_HEADER_BYTES, end - offset):
                message = f"no page at byte {offset}"
                raise BadPages(message) from None
            size *= 8
        else:
            return fields, offset + length


def _read_struct(data: bytes, offset: int, depth: int) -> tuple[dict[int, Any], int]:
    """Return the integers and structs among the fields of a struct, by their ids, and the struct's end."""
    fields: dict[int, Any] = {}
    number = 0
    while kind := data[offset]:
        offset += 1
        if kind >> 4:
            number += kind >> 4
        else:
            number, offset = _read_number(data, offset)
        fields[number], offset = _read_value(data, offset, kind & 15, depth)
    return fields, offset + 1


def _read_value(data: bytes, offset: int, kind: int, depth: int) -> tuple[Any, int]:
    if depth > _MAX_DEPTH:
        message = "a page's header is nested too deeply"
        raise BadPages(message)
    match kind:
        case 1 | 2:
            return None, offset
        case 3 | 7:
            return None, _check_end(data, offset + (1 if kind == 3 else 8))  # noqa: PLR2004 - a byte, or a double
        case 4 | 5 | 6:
            return _read_number(data, offset)
        case 8:
            length, offset = _read_varint(data, offset)
            return None, _check_end(data, offset + length)
        case 9 | 10:
            head, offset = data[offset], offset + 1
            count, offset = (head >> 4, offset) if head >> 4 < 15 else _read_varint(data, offset)  # noqa: PLR2004
            for _ in range(count):
                _, offset = _read_value(data, offset + (head & 15 in {1, 2}), head & 15, depth + 1)
                _check_end(data, offset)
            return None, offset
        case 12:
            return _read_struct(data, offset, depth + 1)
    message = f"a page's header has a field of the unknown type {kind}"
    raise BadPages(message)


def _check_end(data: bytes, offset: int) -> int:
    if offset > len(data):
        raise IndexError
    return offset


def _read_number(data: bytes, offset: int) -> tuple[int, int]:
    """Return a signed integer (zigzag), and its end."""
    value, offset = _read_varint(data, offset)
    return value >> 1 ^ -(value & 1), offset


def _read_varint(data: bytes, offset: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[offset]
        value, offset = value | (byte & 127) << shift, offset + 1
        if byte < 128:  # noqa: PLR2004 - seven bits a byte
            return value, offset
        shift += 7
        if shift > 63:  # noqa: PLR2004 - bits of an integer
            message = "a number in a page's header is too long"
            raise BadPages(message)
