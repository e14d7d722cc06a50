"""PNG containers: one walk over the chunks, no inflation (PNG specification, third edition).

Accepted: every colour type and depth, interlaced or not. Alpha and transparency are dropped, not blended; 16-bit
samples become round(value / 257). Colour profiles and gamma are ignored. A chunk that pixels depend on must have the
right checksum. Animations of more than one frame are refused. Where the file ends early, the decoder fails if pixels
are missing, since the compressed stream has its own checksum.
"""

import zlib
from collections.abc import Iterator

from ingest.formats.header import Header
from ingest.reasons import Reason, Unscorable

MAGIC = b"\x89PNG\r\n\x1a\n"
_MAX_CHUNKS = 65_536  # 64 MiB in IDATs of 1 KiB; a file may have millions of empty chunks
_PIXELS = frozenset({b"IHDR", b"PLTE", b"IDAT"})  # the chunks that pixels depend on
_CRITICAL = _PIXELS | {b"IEND"}
_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}  # table 8 of the specification
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}


def read_png(data: bytes) -> Header:
    """Walk the chunks of `data` and return what its header states.

    Raises:
        Unscorable: truncated, undecodable or animated.
    """
    header, exif, kind, filled = b"", b"", b"", False
    before_pixels: dict[bytes, bytes] = {}
    for kind, start, end in walk_chunks(data):
        sound = end + 4 > len(data) or _checksum(data, start, end) == data[end : end + 4]
        if (kind == b"IHDR") == bool(header):
            raise Unscorable(Reason.UNDECODABLE, "the PNG does not begin with its one IHDR chunk")
        if kind in _PIXELS and not sound:
            raise Unscorable(Reason.UNDECODABLE, f"the checksum of the PNG's {kind.decode()} chunk is wrong")
        header = header or data[start:end]
        filled |= kind == b"IDAT"
        if kind == b"eXIf" and sound:
            exif = exif or data[start:end]
        if not filled:
            before_pixels.setdefault(kind, data[start : min(end, start + 4)])
    if not filled:
        raise Unscorable(Reason.UNDECODABLE, "the PNG has no image data")
    if unknown := [kind for kind in before_pixels if kind[:1].isupper() and kind not in _CRITICAL]:
        raise Unscorable(Reason.UNDECODABLE, f"the PNG has an unknown critical chunk, {unknown[0]!r}")
    frames = int.from_bytes(before_pixels.get(b"acTL", b""), "big")
    if frames > 1 or (frames and b"fcTL" not in before_pixels):  # its one frame is shown instead of the still picture
        raise Unscorable(Reason.ANIMATED, "the PNG is animated; send one frame")
    return _read_header(header, exif, ended=kind == b"IEND")


def strip_png(data: bytes) -> bytes:
    """Return the same picture without text, profiles and other ancillary chunks, which can inflate a thousandfold.

    A last chunk that the end of the file truncates becomes a shorter, valid one. `read_png` accepted `data`.
    """
    kept = [(kind, start, end) for kind, start, end in walk_chunks(data) if kind in _PIXELS]
    chunks = (
        data[start - 8 : end + 4] if end + 4 <= len(data) else _write_chunk(kind, data[start:end])
        for kind, start, end in kept
    )
    return b"".join((MAGIC, *chunks, _write_chunk(b"IEND", b"")))


def walk_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield (type, start, end) of each chunk's body, IEND included.

    After the first image data, the end of the file ends the walk: the last chunk may lack a part of its body or its
    checksum.

    Raises:
        Unscorable: truncated before the image data, or undecodable.
    """
    position, filled = len(MAGIC), False
    for _ in range(_MAX_CHUNKS):
        kind, start = data[position + 4 : position + 8], position + 8
        end = start + int.from_bytes(data[position : position + 4], "big")
        filled |= kind == b"IDAT"
        if end + 4 > len(data) and not filled:
            raise Unscorable(Reason.TRUNCATED, f"a PNG chunk reaches beyond the file's {len(data)} bytes")
        if start > len(data):
            return
        yield kind, start, min(end, len(data))
        if kind == b"IEND" or end + 4 > len(data):
            return
        position = end + 4
    raise Unscorable(Reason.UNDECODABLE, f"the PNG has more than {_MAX_CHUNKS} chunks")


def _checksum(data: bytes, start: int, end: int) -> bytes:
    """Return the checksum of the chunk whose body is `data[start:end]`, as stored in a file."""
    return zlib.crc32(memoryview(data)[start - 4 : end]).to_bytes(4, "big")


def _write_chunk(kind: bytes, body: bytes) -> bytes:
    return len(body).to_bytes(4, "big") + kind + body + zlib.crc32(kind + body).to_bytes(4, "big")


def _read_header(header: bytes, exif: bytes, *, ended: bool) -> Header:
    """Return the `Header` of an IHDR body."""
    if len(header) != 13 or header[8] not in _DEPTHS.get(header[9], ()):  # noqa: PLR2004 - IHDR is 13 bytes
        raise Unscorable(Reason.UNDECODABLE, "the PNG header does not state a valid colour type and depth")
    width, height = int.from_bytes(header[:4], "big"), int.from_bytes(header[4:8], "big")
    return Header(width, height, exif, pixel_bytes=max(3, _CHANNELS[header[9]] * header[8] // 8), ended=ended)
