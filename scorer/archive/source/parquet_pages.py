"""What the pages of a Parquet column state of themselves, read before a library takes memory for what they hold.

Only the headers are read (Thrift's compact protocol); the pages are passed over.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow.parquet as pq

from scorer.payloads.stores import StoreFile

MAX_HEADER_BYTES = 2**20  # PyArrow refuses 16 MiB; a header has a few dozen bytes, and statistics where one likes them
_FIRST_BYTES = 1024
_MAX_DEPTH = 8
_VALUES_OF = {0: 5, 2: 7, 3: 8}  # by the page's type: the field of the header that counts its values
_DICTIONARY = 2


class BadPages(ValueError):
    """A column's pages are not where its metadata says, or state sizes that cannot be."""


@dataclass(frozen=True, slots=True)
class Page:
    """What one page states.

    Attributes:
        size: bytes once it is inflated.
        stored: bytes in the file.
        values: how many it holds, nulls among them.
        dictionary: it holds the values that the pages behind it refer to, each as often as they like.
    """

    size: int
    stored: int
    values: int
    dictionary: bool


def read_pages(file: StoreFile, column: pq.ColumnChunkMetaData) -> Iterator[Page]:
    """Yield what the pages of a column in a row group state.

    Raises:
        BadPages: they state what cannot be.
        PayloadUnavailable: the store fails.
    """
    place = column.data_page_offset
    if column.has_dictionary_page and 0 < column.dictionary_page_offset < place:
        place = column.dictionary_page_offset
    length, left = file.seek(0, os.SEEK_END), column.num_values
    if not 0 <= place <= length:
        message = f"a column that begins at byte {place} of a file of {length}"
        raise BadPages(message)
    while left > 0:
        header, place = _read_header(file, place, length)
        stored, size = header.get(3), header.get(2)
        counts = header.get(_VALUES_OF.get(header.get(1) or 0, 0)) or {}
        values = counts.get(1) or 0
        if not isinstance(stored, int) or not isinstance(size, int) or min(stored, size, values) < 0:
            message = "a page without a size"
            raise BadPages(message)
        place += stored
        if place > length:
            message = f"a page that ends at byte {place} of a file of {length}"
            raise BadPages(message)
        dictionary = header.get(1) == _DICTIONARY
        left -= 0 if dictionary else values
        yield Page(size, stored, values, dictionary)


def _read_header(file: StoreFile, place: int, end: int) -> tuple[dict[int, Any], int]:
    """Return the header at byte `place`, and where it ends."""
    size = _FIRST_BYTES
    while True:
        file.seek(place)
        data = file.read(min(size, end - place))
        try:
            fields, length = _read_struct(data, 0, 0)
        except IndexError:
            if size >= min(MAX_HEADER_BYTES, end - place):
                message = f"no page at byte {place}"
                raise BadPages(message) from None
            size *= 8
        else:
            return fields, place + length


def _read_struct(data: bytes, place: int, depth: int) -> tuple[dict[int, Any], int]:
    """Return the whole numbers and structs among the fields of a struct, by their ids, and where it ends."""
    fields: dict[int, Any] = {}
    number = 0
    while kind := data[place]:
        place += 1
        if kind >> 4:
            number += kind >> 4
        else:
            number, place = _read_number(data, place)
        fields[number], place = _read_value(data, place, kind & 15, depth)
    return fields, place + 1


def _read_value(data: bytes, place: int, kind: int, depth: int) -> tuple[Any, int]:
    if depth > _MAX_DEPTH:
        message = "a page's header nests too deep"
        raise BadPages(message)
    match kind:
        case 1 | 2:
            return None, place
        case 3 | 7:
            return None, _within(data, place + (1 if kind == 3 else 8))  # noqa: PLR2004 - a byte, or a double
        case 4 | 5 | 6:
            return _read_number(data, place)
        case 8:
            length, place = _read_varint(data, place)
            return None, _within(data, place + length)
        case 9 | 10:
            head, place = data[place], place + 1
            count, place = (head >> 4, place) if head >> 4 < 15 else _read_varint(data, place)  # noqa: PLR2004
            for _ in range(count):
                _, place = _read_value(data, place + (head & 15 in {1, 2}), head & 15, depth + 1)
                _within(data, place)
            return None, place
        case 12:
            return _read_struct(data, place, depth + 1)
    message = f"a page's header holds a field of the type {kind}"
    raise BadPages(message)


def _within(data: bytes, place: int) -> int:
    if place > len(data):
        raise IndexError
    return place


def _read_number(data: bytes, place: int) -> tuple[int, int]:
    """Return a signed number, and where it ends."""
    value, place = _read_varint(data, place)
    return value >> 1 ^ -(value & 1), place


def _read_varint(data: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[place]
        value, place = value | (byte & 127) << shift, place + 1
        if byte < 128:  # noqa: PLR2004 - seven bits a byte
            return value, place
        shift += 7
        if shift > 63:  # noqa: PLR2004 - bits of a number
            message = "a number in a page's header is too long"
            raise BadPages(message)
