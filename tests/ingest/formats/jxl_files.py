"""JPEG XL files for tests: an encoder's frames behind headers and in boxes that are written here."""

import struct

import numpy as np
from imagecodecs import jpegxl_encode
from numpy.typing import ArrayLike

from ingest.formats.jxl import _Bits, _read_size, strip_jxl

CONTAINER = b"\0\0\0\x0cJXL \r\n\x87\n" + b"\0\0\0\x14ftypjxl \0\0\0\0jxl "
Fields = tuple[tuple[int, int], ...]  # (value, bits), from the lowest bit of each byte on


def encode(pixels: ArrayLike, **options: object) -> bytes:
    """Return pixels as a bare codestream, lossless where `options` state nothing else."""
    return strip_jxl(bytes(jpegxl_encode(np.asarray(pixels), numthreads=1, **options)))


def write_box(kind: bytes, body: bytes) -> bytes:
    """Return a box."""
    return struct.pack(">I4s", 8 + len(body), kind) + body


def wrap(codestream: bytes, *boxes: bytes) -> bytes:
    """Return a codestream in a container, behind other boxes."""
    return CONTAINER + b"".join(boxes) + write_box(b"jxlc", codestream)


def write_size(width: int, height: int) -> Fields:
    """Return sides of up to 512 pixels."""
    return (0, 3), (height - 1, 9), (0, 5), (width - 1, 9)


def write_header(
    size: Fields,
    turned: Fields = (),
    depth: Fields = ((0, 3),),
    extra: Fields = ((0, 2),),
    colours: Fields = ((2, 2),),
) -> bytes:
    """Return a header: `turned` are the orientation and what follows, `depth` the bits of a sample.

    `extra` are the extra channels; `colours` are whether it is lossy and the colour space, lossless sRGB by default.
    """
    fields = [(0x0AFF, 16), *size, (0, 1), (bool(turned), 1), *turned, *depth, (1, 1), *extra, *colours]
    total = position = 0
    for value, bits in [*fields, (bool(turned), bool(turned)), (0, 2), (1, 1)]:
        total |= value << position
        position += bits
    return total.to_bytes(-(-position // 8), "little")


def turn(codestream: bytes, orientation: int) -> bytes:
    """Return a codestream of `encode`, 8-bit RGB, whose header states an orientation."""
    bits = _Bits(codestream, 16)
    _read_size(bits)
    size = (((int.from_bytes(codestream[:16], "little") & (1 << bits.position) - 1) >> 16, bits.position - 16),)
    plain = write_header(size)
    assert codestream.startswith(plain)
    return write_header(size, ((orientation - 1, 3), (0, 3))) + codestream[len(plain) :]
