"""The item tables of an ISO base media file that contains still images (ISO 14496-12, 8.11; ISO 23008-12).

Every number is checked against the file before it is used; sizes and counts are limited. Items are read as they are:
`ingest.formats.heif` decides which of them are a picture.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from struct import unpack_from
from typing import NamedTuple

from ingest.reasons import Reason, Unscorable

_SEQUENCES = frozenset({b"avis", b"hevc", b"hevx", b"msf1"})
_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"mif1", b"mif2", b"miaf", b"avif"})
_MAX_BRAND_BYTES = 256
_MAX_BOXES = 4096  # of one level
_MAX_BOX_BYTES = 1 << 20  # of a table inside `meta`; a phone's photograph has 20 KB in all
_MAX_ITEMS = 4096  # a phone's photograph of 48 megapixels has about 400
_MAX_EXTENTS = 64  # of an item
EXIF_PREFIX = 4  # an Exif item begins with the offset of its TIFF header


class Box(NamedTuple):
    """A box: its type, and where its body lies in the file."""

    kind: bytes
    start: int
    end: int


class Property(NamedTuple):
    """A property of an item; a reader must know an essential one."""

    kind: bytes
    body: bytes
    essential: bool


@dataclass(slots=True)
class Item:
    """An item: its type, where its bytes are, what describes it, and the items that it refers to."""

    kind: bytes = b""
    protected: bool = False
    method: int = 0
    extents: list[tuple[int, int]] = field(default_factory=list)
    properties: list[Property] = field(default_factory=list)
    parts: tuple[int, ...] = ()  # the items from which it is derived
    described: tuple[int, ...] = ()  # the items that it describes


def find_brands(data: bytes) -> tuple[bytes, frozenset[bytes]]:
    """Return the major brand of an ISO base media file and all its brands; (b"", empty) for other files."""
    if data[4:8] != b"ftyp":
        return b"", frozenset()
    end = min(int.from_bytes(data[:4], "big"), _MAX_BRAND_BYTES, len(data))
    return data[8:12], frozenset({data[8:12], *(data[at : at + 4] for at in range(16, end, 4))})


def is_heif(data: bytes) -> bool:
    """Return whether `data` begins like a HEIF or AVIF file: still images, or a sequence of them."""
    return bool(find_brands(data)[1] & (_BRANDS | _SEQUENCES))


def walk_boxes(data: bytes, start: int, end: int, name: str = "HEIF") -> Iterator[Box]:
    """Yield the boxes of `data` between `start` and `end`; `name` is that of the format.

    Raises:
        Unscorable: truncated or undecodable.
    """
    for _ in range(_MAX_BOXES):
        if start == end:
            return
        if end - start < 8:  # noqa: PLR2004 - size and type
            if end == len(data):
                return  # bytes behind the last box
            raise Unscorable(Reason.UNDECODABLE, f"a box of the {name} file has no whole header")
        size, kind = unpack_from(">I4s", data, start)
        header = 8
        if size == 1 and end - start >= 16:  # noqa: PLR2004 - and a size of 64 bits
            header, size = 16, unpack_from(">Q", data, start + 8)[0]
        elif size == 0 and end == len(data):
            size = end - start
        if size < header:
            raise Unscorable(Reason.UNDECODABLE, f"the {name} file has a box of {size} bytes")
        if start + size > end:
            if end == len(data):
                raise Unscorable(Reason.TRUNCATED, f"a box reaches beyond the file's {end} bytes")
            raise Unscorable(Reason.UNDECODABLE, f"a box of the {name} file reaches beyond the box around it")
        yield Box(kind, start + header, start + size)
        start += size
    raise Unscorable(Reason.UNDECODABLE, f"the {name} file has more than {_MAX_BOXES} boxes at one level")


class ItemTables:
    """The items of a file, and the number of the primary one.

    Raises:
        Unscorable: truncated, undecodable, unsupported_format or animated.
    """

    def __init__(self, data: bytes) -> None:
        self._data, self.size = data, len(data)
        self._idat = Box(b"", 0, 0)
        self.items: dict[int, Item] = {}
        self.primary = -1
        boxes: dict[bytes, Box] = {}
        for box in walk_boxes(self._data, 0, len(data)):
            boxes.setdefault(box.kind, box)
        major, _ = find_brands(data)
        if major in _SEQUENCES and b"moov" in boxes:
            raise Unscorable(Reason.ANIMATED, "the file is an image sequence; send one image")
        if b"meta" not in boxes:
            form = "a minimised container" if b"mini" in boxes else "a container without items"
            raise Unscorable(Reason.UNSUPPORTED_FORMAT, f"the HEIF file has {form}; convert it first")
        self._read_meta(boxes[b"meta"])

    def _read_meta(self, meta: Box) -> None:
        tables: dict[bytes, Box] = {}
        for box in walk_boxes(self._data, meta.start + 4, meta.end):
            if box.kind in tables:
                raise Unscorable(Reason.UNDECODABLE, f"the HEIF file has two tables {box.kind!r}")
            if box.kind != b"idat" and box.end - box.start > _MAX_BOX_BYTES:
                raise Unscorable(Reason.UNDECODABLE, f"a table of the HEIF file has more than {_MAX_BOX_BYTES} bytes")
            tables[box.kind] = box
        self._idat = tables.get(b"idat", self._idat)
        try:
            self.primary = self._read_primary(tables[b"pitm"])
            self._read_names(tables[b"iinf"])
            self._read_places(tables[b"iloc"])
            self._read_properties(tables[b"iprp"])
            if b"iref" in tables:
                self._read_references(tables[b"iref"])
        except KeyError as error:
            raise Unscorable(Reason.UNDECODABLE, f"the HEIF file has no table {error}") from None
        except ValueError as error:
            raise Unscorable(Reason.UNDECODABLE, "a table of the HEIF file is too short") from error

    def _read_primary(self, box: Box) -> int:
        cursor = Cursor(self._data, box)
        return cursor.take(4 if cursor.version else 2)

    def _read_names(self, box: Box) -> None:
        cursor = Cursor(self._data, box)
        if cursor.take(4 if cursor.version else 2) > _MAX_ITEMS:
            raise Unscorable(Reason.UNDECODABLE, f"the HEIF file has more than {_MAX_ITEMS} items")
        for entry in walk_boxes(self._data, cursor.position, box.end):
            inner = Cursor(self._data, entry)
            if entry.kind != b"infe" or inner.version < 2:  # noqa: PLR2004 - older ones have no type
                continue
            number = inner.take(4 if inner.version > 2 else 2)  # noqa: PLR2004 - version 3
            protected = inner.take(2) != 0
            kind = inner.take(4).to_bytes(4, "big")
            if number in self.items:
                raise Unscorable(Reason.UNDECODABLE, "two items of the HEIF file have one number")
            self.items[number] = Item(kind, protected)

    def _read_places(self, box: Box) -> None:
        cursor = Cursor(self._data, box)
        sizes, rest = cursor.take(1), cursor.take(1)
        offset_bytes, length_bytes, base_bytes = sizes >> 4, sizes & 15, rest >> 4
        index_bytes = rest & 15 if cursor.version else 0
        if not {offset_bytes, length_bytes, base_bytes, index_bytes} <= {0, 4, 8}:
            raise Unscorable(Reason.UNDECODABLE, "the HEIF file has offsets of an unknown size")
        wide = 4 if cursor.version > 1 else 2
        count = cursor.take(wide)
        if count > _MAX_ITEMS:
            raise Unscorable(Reason.UNDECODABLE, f"the HEIF file has more than {_MAX_ITEMS} items")
        for _ in range(count):
            number = cursor.take(wide)
            method = cursor.take(2) & 15 if cursor.version else 0
            external, base, extents = cursor.take(2), cursor.take(base_bytes), cursor.take(2)
            if extents > _MAX_EXTENTS:
                raise Unscorable(Reason.UNDECODABLE, f"an item of the HEIF file has more than {_MAX_EXTENTS} parts")
            item = self.items.get(number, Item())
            if item.extents:
                raise Unscorable(Reason.UNDECODABLE, "an item of the HEIF file has two places")
            item.method = -1 if external else method
            for _ in range(extents):
                cursor.take(index_bytes)
                offset = base + cursor.take(offset_bytes)
                item.extents.append((offset, cursor.take(length_bytes)))

    def _read_properties(self, box: Box) -> None:
        owned: list[tuple[bytes, bytes]] = []
        for part in walk_boxes(self._data, box.start, box.end):
            if part.kind == b"ipco":
                owned = [
                    (each.kind, self._data[each.start : each.end])
                    for each in walk_boxes(self._data, part.start, part.end)
                ]
            elif part.kind == b"ipma":
                cursor = Cursor(self._data, part)
                for _ in range(min(cursor.take(4), _MAX_ITEMS)):
                    item = self.items.get(cursor.take(4 if cursor.version else 2), Item())
                    for _ in range(cursor.take(1)):
                        wide = cursor.flags & 1
                        value = cursor.take(2 if wide else 1)
                        essential, index = value >> (15 if wide else 7), value & (0x7FFF if wide else 0x7F)
                        if index > len(owned):
                            raise Unscorable(
                                Reason.UNDECODABLE, "an item of the HEIF file has a property that does not exist"
                            )
                        if index:
                            item.properties.append(Property(*owned[index - 1], bool(essential)))

    def _read_references(self, box: Box) -> None:
        outer = Cursor(self._data, box)
        for part in walk_boxes(self._data, outer.position, box.end):
            if part.kind not in {b"dimg", b"cdsc"}:
                continue
            cursor, wide = Cursor(self._data, part, full=False), 4 if outer.version else 2
            item = self.items.get(cursor.take(wide), Item())
            targets = tuple(cursor.take(wide) for _ in range(cursor.take(2)))
            if part.kind == b"cdsc":
                item.described = targets
            elif item.parts:
                raise Unscorable(Reason.UNDECODABLE, "an item of the HEIF file is derived twice")
            else:
                item.parts = targets

    def find_exif(self) -> bytes:
        """Return the EXIF block of the primary item from its TIFF header on; b"" where none can be read."""
        found = [item for item in self.items.values() if item.kind == b"Exif" and not item.protected]
        found.sort(key=lambda item: self.primary not in item.described)
        try:
            block = self.read_item(found[0]) if found else b""
        except Unscorable:
            return b""
        return block[EXIF_PREFIX + int.from_bytes(block[:EXIF_PREFIX], "big") :]

    def read_item(self, item: Item) -> bytes:
        """Return the bytes of an item.

        Raises:
            Unscorable: truncated or unsupported_format.
        """
        if item.protected or item.method not in (0, 1) or not item.extents:
            raise Unscorable(Reason.UNSUPPORTED_FORMAT, "an image of the HEIF file is encrypted or in another file")
        first, end = (self._idat.start, self._idat.end) if item.method else (0, len(self._data))
        if len(item.extents) == 1 and item.extents[0][1] == 0:  # to the end of the source
            return self._data[first + item.extents[0][0] : end]
        if sum(length for _, length in item.extents) > len(self._data):
            raise Unscorable(Reason.TRUNCATED, f"an image of the HEIF file has more bytes than its {len(self._data)}")
        parts = []
        for offset, length in item.extents:
            if first + offset + length > end:
                message = f"an image of the HEIF file reaches beyond its {end - first} bytes"
                raise Unscorable(Reason.TRUNCATED, message)
            parts.append(self._data[first + offset : first + offset + length])
        return b"".join(parts)


class Cursor:
    """Reads the integers of a box in order.

    Raises:
        ValueError: the box ends.
    """

    def __init__(self, data: bytes, box: Box, *, full: bool = True) -> None:
        self._data, self._end, self.position = data, box.end, box.start
        self.version, self.flags = (self.take(1), self.take(3)) if full else (0, 0)

    def take(self, size: int) -> int:
        """Return the next unsigned integer of `size` bytes; 0 for no bytes."""
        if self.position + size > self._end:
            raise ValueError
        self.position += size
        return int.from_bytes(self._data[self.position - size : self.position], "big")
