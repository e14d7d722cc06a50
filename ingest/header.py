"""What a container says about its image before a pixel is decoded: size, EXIF block, number of scans."""

import struct
from typing import NamedTuple

_ORIENTATION_TAG = 0x0112
_SHORT, _LONG = 3, 4
_LAST_ORIENTATION = 8


class Header(NamedTuple):
    """The stored image: sides in pixels before the orientation is applied.

    A decoder holds `pixel_bytes` for each pixel, and at least three, since it ends with RGB.
    """

    width: int
    height: int
    exif: bytes = b""
    scans: int = 1
    pixel_bytes: int = 3


def read_orientation(exif: bytes) -> int:
    """Return the EXIF orientation 1..8 of a TIFF-structured `exif` block, with or without its `Exif` prefix.

    Only the first directory is read, never a pointer after it, so neither a loop nor a huge count can cost
    more than one block of 64 KiB. Damaged metadata does not make a photograph unscorable: whatever cannot
    be understood counts as 1, upright (EXIF 2.32, section 4.6.2; TIFF 6.0, section 2).
    """
    tiff = exif.removeprefix(b"Exif\0\0")
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None or len(tiff) < 8:  # noqa: PLR2004 - a TIFF header is 8 bytes
        return 1
    start = struct.unpack_from(order + "I", tiff, 4)[0]
    if start + 2 > len(tiff):
        return 1
    count = struct.unpack_from(order + "H", tiff, start)[0]
    entries = tiff[start + 2 : start + 2 + 12 * count]
    for tag, kind, values, raw in struct.iter_unpack(order + "HHI4s", entries[: len(entries) // 12 * 12]):
        if tag == _ORIENTATION_TAG and values and kind in (_SHORT, _LONG):
            value = struct.unpack_from(order + ("H" if kind == _SHORT else "I"), raw)[0]
            return int(value) if 1 <= value <= _LAST_ORIENTATION else 1
    return 1
