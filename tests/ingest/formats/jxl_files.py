"""JPEG XL files for tests: an encoder's frames behind headers and in boxes that are written here."""

import struct

import numpy as np
from imagecodecs import jpegxl_encode
from numpy.typing import ArrayLike

from ingest.formats.jxl import strip_jxl

CONTAINER = b"\0\0\0\x0cJXL \r\n\x87\n" + b"\0\0\0\x14ftypjxl \0\0\0\0jxl "


def encode(pixels: ArrayLike, **options: object) -> bytes:
    """Return pixels as a bare codestream, lossless where `options` state nothing else."""
    return strip_jxl(bytes(jpegxl_encode(np.asarray(pixels), numthreads=1, **options)))


def wrap(codestream: bytes, *boxes: bytes) -> bytes:
    """Return a codestream in a container, behind other boxes."""
    return CONTAINER + b"".join(boxes) + write_box(b"jxlc", codestream)


def write_box(kind: bytes, body: bytes) -> bytes:
    """Return a box."""
    return struct.pack(">I4s", 8 + len(body), kind) + body


def write_header(
    width: int,
    height: int,
    orientation: int | None = None,
    depth: tuple[tuple[int, int], ...] = ((0, 1), (0, 2)),
    before: tuple[tuple[int, int], ...] = ((0, 1),) * 3,
    extra: tuple[tuple[int, int], ...] = ((0, 2),),
) -> bytes:
    """Return a header that is not lossy, in sRGB, padded to whole bytes.

    Args:
        width, height: up to 8192, of no ratio that has a short form.
        orientation: 1..8; None writes none.
        depth: the bits of a sample as (value, bits).
        before: displayed size, preview and animation, likewise, where there is an orientation.
        extra: the number of extra channels and what each one is, likewise.
    """
    sizes = [((0, 2), (side - 1, 9)) if side <= 512 else ((1, 2), (side - 1, 13)) for side in (height, width)]
    fields = [(0x0AFF, 16), (0, 1), *sizes[0], (0, 3), *sizes[1], (0, 1), (int(orientation is not None), 1)]
    if orientation is not None:
        fields += [(orientation - 1, 3), *before]
    fields += [*depth, (1, 1), *extra, (0, 1), (1, 1)]
    fields += [(1, 1)] if orientation is not None else []  # default tones
    return pack_bits([*fields, (0, 2), (1, 1)])  # no extensions, default weights


def pack_bits(fields: list[tuple[int, int]]) -> bytes:
    """Return (value, bits) from the lowest bit of each byte on."""
    total = position = 0
    for value, bits in fields:
        total |= value << position
        position += bits
    return total.to_bytes(-(-position // 8), "little")


def turn(codestream: bytes, width: int, height: int, orientation: int) -> bytes:
    """Return a codestream of `encode`, 8-bit RGB, whose header states an orientation."""
    header = write_header(width, height)
    assert codestream.startswith(header)
    return write_header(width, height, orientation) + codestream[len(header) :]
