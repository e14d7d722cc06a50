"""JPEG XL files for tests: an encoder's frames behind headers and in boxes that are written here."""

import struct

import numpy as np
from imagecodecs import jpegxl_encode
from numpy.typing import ArrayLike

from ingest.formats.jxl import strip_jxl

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


def write_header(
    size: tuple[int, int], turned: Fields = (), depth: Fields = ((0, 3),), extra: Fields = ((0, 2),)
) -> bytes:
    """Return a lossless header in sRGB. `size` is (width, height), up to 512, of no ratio that has a short form.

    `turned` are the orientation and what follows, `depth` the bits of a sample, `extra` the extra channels.
    """
    width, height = ((side - 1) << 2 for side in size)
    fields = [(0x0AFF, 16), (0, 1), (height, 11), (0, 3), (width, 11), (0, 1), (bool(turned), 1), *turned]
    fields += [*depth, (1, 1), *extra, (0, 1), (1, 1), (bool(turned), bool(turned)), (0, 2), (1, 1)]
    total = position = 0
    for value, bits in fields:
        total |= value << position
        position += bits
    return total.to_bytes(-(-position // 8), "little")


def turn(codestream: bytes, size: tuple[int, int], orientation: int) -> bytes:
    """Return a codestream of `encode`, 8-bit RGB, whose header states an orientation."""
    header = write_header(size)
    assert codestream.startswith(header)
    return write_header(size, ((orientation - 1, 3), (0, 3))) + codestream[len(header) :]
