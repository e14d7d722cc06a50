"""PNG containers: one walk over the chunks, no inflation (PNG specification, third edition).

Policy. Accepted: every colour type and depth, interlaced or not. Alpha and transparency are dropped, not
blended; 16-bit samples become round(value / 257). Colour profiles and gamma are ignored. A chunk that pixels
depend on must carry its right checksum. Animated PNG is refused.
"""

import zlib
from collections.abc import Iterator

from ingest.header import Header
from ingest.reasons import Reason, Unscorable

MAGIC = b"\x89PNG\r\n\x1a\n"
_MAX_CHUNKS = 65_536  # 32 MiB in IDATs of 512 bytes; bounds the walk over millions of empty chunks
_CRITICAL = frozenset({b"IHDR", b"PLTE", b"IDAT", b"IEND"})
_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}  # table 8 of the specification
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}


def read_png(data: bytes) -> Header:
    """Walk every chunk of `data` and return what its header says.

    Raises:
        Unscorable: truncated, undecodable or animated.
    """
    header, exif, filled = b"", b"", False
    for kind, start, end in walk_chunks(data):
        if (kind == b"IHDR") == bool(header):
            raise Unscorable(Reason.UNDECODABLE, "the PNG does not begin with its one IHDR chunk")
        if kind in _CRITICAL and zlib.crc32(memoryview(data)[start - 4 : end]) != int.from_bytes(
            data[end : end + 4], "big"
        ):
            raise Unscorable(Reason.UNDECODABLE, f"the checksum of the PNG's {kind.decode()} chunk is wrong")
        if kind == b"IHDR":
            header = data[start:end]
        elif kind == b"acTL":
            raise Unscorable(Reason.ANIMATED, "the PNG is animated; send one frame")
        elif kind == b"eXIf" and not exif:
            exif = data[start:end]
        filled |= kind == b"IDAT"
    if not filled:
        raise Unscorable(Reason.UNDECODABLE, "the PNG has no image data")
    return _read_header(header, exif)


def strip_png(data: bytes) -> bytes:
    """Return the same picture without text, profiles and other ancillary chunks, which can inflate a thousandfold.

    `data` passed `read_png`.
    """
    kept = (data[start - 8 : end + 4] for kind, start, end in walk_chunks(data) if kind in _CRITICAL)
    return b"".join((MAGIC, *kept))


def walk_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield (type, start, end) of each chunk's body, IEND included."""
    position = len(MAGIC)
    for _ in range(_MAX_CHUNKS):
        kind, start = data[position + 4 : position + 8], position + 8
        end = start + int.from_bytes(data[position : position + 4], "big")
        if end + 4 > len(data):
            raise Unscorable(Reason.TRUNCATED, f"a PNG chunk reaches past byte {len(data)}, the last one")
        yield kind, start, end
        if kind == b"IEND":
            return
        position = end + 4
    raise Unscorable(Reason.UNDECODABLE, f"the PNG has more than {_MAX_CHUNKS} chunks")


def _read_header(header: bytes, exif: bytes) -> Header:
    """Return the `Header` of an IHDR body."""
    if len(header) != 13 or header[8] not in _DEPTHS.get(header[9], ()):  # noqa: PLR2004 - IHDR is 13 bytes
        raise Unscorable(Reason.UNDECODABLE, "the PNG header names no existing colour type and depth")
    width, height = int.from_bytes(header[:4], "big"), int.from_bytes(header[4:8], "big")
    return Header(width, height, exif, pixel_bytes=max(3, _CHANNELS[header[9]] * header[8] // 8))
