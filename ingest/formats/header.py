"""What a container states about its image before a pixel is decoded: size, EXIF block, number of scans."""

import math
import re
import struct
from typing import NamedTuple

# EXIF 2.32, section 4.5.2. The sixth byte should be 0; some cameras write another one, and no reader checks it.
EXIF_HEADER = re.compile(rb"Exif\0.", re.DOTALL)

EXIF_IFD = 0x8769
_ORIENTATION_TAG = 0x0112
_BYTE, _ASCII, _SHORT, _LONG, _UNDEFINED = 1, 2, 3, 4, 7
_LAST_ORIENTATION = 8
# The layout of one value of each type of number; a rational is two.
_NUMBERS = {3: "H", 4: "I", 5: "II", 8: "h", 9: "i", 10: "ii", 11: "f", 12: "d"}
_MAX_TEXT_BYTES, _MAX_VALUES = 64, 8  # of `TiffBlock.read_value`


class Header(NamedTuple):
    """The stored image: sides in pixels before the orientation is applied.

    A decoder needs `pixel_bytes` for each pixel, at least three: its result is RGB. `ended` is whether the file reaches
    the end that its container states. `orientation` is what the container states; None leaves it to EXIF.
    `coded_pixels` is how many pixels a decoder writes, where the image is a part of them; else 0.
    """

    width: int
    height: int
    exif: bytes = b""
    scans: int = 1
    pixel_bytes: int = 3
    ended: bool = True
    orientation: int | None = None
    coded_pixels: int = 0


class TiffBlock:
    """The directories of a TIFF-structured EXIF block, with or without its `Exif` prefix (TIFF 6.0, section 2).

    Damaged metadata does not make a photograph unscorable: a field that cannot be read is absent. At most `MAX_ENTRIES`
    of a directory are read, and only the caller follows pointers. So neither a loop nor a huge count costs much.
    """

    MAX_ENTRIES = 1024  # a camera's main directory has about 15, its EXIF directory about 40

    def __init__(self, exif: bytes) -> None:
        self._tiff = exif[6:] if EXIF_HEADER.match(exif) else exif
        self._order = {b"II*\0": "<", b"MM\0*": ">"}.get(self._tiff[:4], "")

    def read_first_directory(self) -> dict[int, "TiffField"]:
        """Return the fields of the main directory by tag."""
        if not self._order or len(self._tiff) < 8:  # noqa: PLR2004 - a TIFF header is 8 bytes
            return {}
        return self.read_directory(struct.unpack_from(self._order + "I", self._tiff, 4)[0])

    def read_exif_directory(self, main: "dict[int, TiffField]") -> dict[int, "TiffField"]:
        """Return the fields of the directory of EXIF, to which a field of the `main` directory points, by tag."""
        pointer = self.read_number(main.get(EXIF_IFD))
        return {} if pointer is None else self.read_directory(pointer)

    def read_directory(self, start: int) -> dict[int, "TiffField"]:
        """Return the fields of the directory at byte `start` by tag; of a repeated tag, the first."""
        if start + 2 > len(self._tiff):
            return {}
        count = min(struct.unpack_from(self._order + "H", self._tiff, start)[0], self.MAX_ENTRIES)
        entries = self._tiff[start + 2 : start + 2 + 12 * count]
        fields: dict[int, TiffField] = {}
        for tag, kind, values, raw in struct.iter_unpack(self._order + "HHI4s", entries[: len(entries) // 12 * 12]):
            fields.setdefault(tag, TiffField(kind, values, raw))
        return fields

    def read_number(self, field: "TiffField | None") -> int | None:
        """Return the first value of a SHORT or LONG field."""
        if field is None or not field.values or field.kind not in (_SHORT, _LONG):
            return None
        return int(struct.unpack_from(self._order + ("H" if field.kind == _SHORT else "I"), field.raw)[0])

    def read_text(self, field: "TiffField | None", max_bytes: int) -> bytes:
        """Return an ASCII field up to its first NUL, at most `max_bytes` of it."""
        return self._read_bytes(field, max_bytes, _ASCII).partition(b"\0")[0]

    def read_undefined(self, field: "TiffField | None", max_bytes: int) -> bytes:
        """Return the first `max_bytes` of a field of the type UNDEFINED, or BYTE, which some writers use instead."""
        return self._read_bytes(field, max_bytes, _UNDEFINED, _BYTE)

    def read_value(self, field: "TiffField | None") -> object:
        """Return a field's text, its number, or its first numbers as a tuple; None where it has none.

        A rational is a float, NaN if its denominator is zero.
        """
        layout = _NUMBERS.get(field.kind) if field else None
        if field is None or layout is None:
            return self.read_text(field, _MAX_TEXT_BYTES) or None
        size = struct.calcsize("=" + layout)
        raw = self._read_bytes(field, size * _MAX_VALUES, field.kind, size=size)
        values = list(struct.iter_unpack(self._order + layout, raw[: len(raw) // size * size]))
        numbers = [each[0] if len(each) == 1 else each[0] / each[1] if each[1] else math.nan for each in values]
        return numbers[0] if len(numbers) == 1 else tuple(numbers) or None

    def _read_bytes(self, field: "TiffField | None", max_bytes: int, *kinds: int, size: int = 1) -> bytes:
        if field is None or field.kind not in kinds:
            return b""
        if field.values * size <= len(field.raw):
            return field.raw[: field.values * size]
        start = struct.unpack_from(self._order + "I", field.raw)[0]
        return self._tiff[start : start + min(field.values * size, max_bytes)]


class TiffField(NamedTuple):
    """One entry of a directory: its type, its number of values, and the value itself or its position."""

    kind: int
    values: int
    raw: bytes


def read_orientation(exif: bytes) -> int:
    """Return the EXIF orientation 1..8 of an `exif` block; 1 (upright) where it cannot be read.

    EXIF 2.32, section 4.6.2. Only the main directory is read.
    """
    block = TiffBlock(exif)
    value = block.read_number(block.read_first_directory().get(_ORIENTATION_TAG))
    return value if value is not None and 1 <= value <= _LAST_ORIENTATION else 1
