"""WebP containers: one walk over the RIFF chunks, no decode (RFC 9649).

Accepted: lossy (VP8) and lossless (VP8L) stills, simple or extended files, and an animation of one frame that fills the
canvas. Alpha is dropped, not blended; colour profiles are ignored. Other animations are refused. Data after the RIFF
length are ignored.
"""

from collections.abc import Iterator

from ingest.formats.header import Header
from ingest.reasons import Reason, Unscorable

_MAX_CHUNKS = 4096  # stills have fewer than ten; a file may have millions of empty ones
_FRAME_HEADER_BYTES = 16  # of ANMF: position, size, duration and flags; the frame's chunks follow
_PICTURES = frozenset({b"VP8 ", b"VP8L"})


def is_webp(data: bytes) -> bool:
    """Return whether `data` begins like a WebP file."""
    return data[:4] == b"RIFF" and data[8:12] == b"WEBP"


def read_webp(data: bytes) -> Header:
    """Walk the chunks of `data` and return what its picture chunk states.

    Raises:
        Unscorable: truncated, undecodable or animated.
    """
    canvas: tuple[int, int] | None = None
    sizes: list[tuple[int, int]] = []
    exif, frames = b"", 0
    for kind, start, end in walk_chunks(data):
        body = data[start : min(end, start + 10)]  # headers take 10 bytes at most
        if kind == b"VP8X" and len(body) == 10:  # noqa: PLR2004 - flags, reserved, two sides less one of 24 bits
            canvas = (1 + int.from_bytes(body[4:7], "little"), 1 + int.from_bytes(body[7:10], "little"))
        elif kind == b"ANMF":
            frames += 1
            if frames > 1:
                raise Unscorable(Reason.ANIMATED, "the WebP is animated; send one frame")
        elif kind in _PICTURES:
            sizes.append(_read_lossy(body, end - start) if kind == b"VP8 " else _read_lossless(body))
        elif kind == b"EXIF" and not exif:
            exif = data[start:end]
    if len(sizes) != 1 or canvas not in (None, sizes[0]):
        raise Unscorable(Reason.UNDECODABLE, "the WebP does not contain exactly one picture of the size that it states")
    return Header(*sizes[0], exif)


def strip_webp(data: bytes) -> bytes:
    """Return the same picture as a WebP file of one chunk, without alpha, EXIF and profile.

    nvImageCodec 0.9 needs this: it refuses valid files whose EXIF follows a picture of odd length.
    `read_webp` accepted `data`.
    """
    picture = next(data[start - 8 : end] for kind, start, end in walk_chunks(data) if kind in _PICTURES)
    picture += b"\0" * (len(picture) % 2)
    return b"RIFF" + (4 + len(picture)).to_bytes(4, "little") + b"WEBP" + picture


def walk_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield (type, start, end) of each chunk's body; the chunks inside an animation's frame follow the frame itself."""
    stop = 8 + int.from_bytes(data[4:8], "little")
    if stop > len(data):
        raise Unscorable(Reason.TRUNCATED, f"the WebP states {stop} bytes and has {len(data)}")
    position = 12
    for _ in range(_MAX_CHUNKS):
        if position + 8 > stop:
            return
        kind, start = data[position : position + 4], position + 8
        end = start + int.from_bytes(data[position + 4 : start], "little")
        if end > stop:
            raise Unscorable(Reason.TRUNCATED, f"a WebP chunk reaches beyond the file's {stop} bytes")
        yield kind, start, end
        # Chunks begin at even offsets. A frame's own chunks follow its header.
        position = start + _FRAME_HEADER_BYTES if kind == b"ANMF" else end + end % 2
    raise Unscorable(Reason.UNDECODABLE, f"the WebP has more than {_MAX_CHUNKS} chunks")


def _read_lossy(body: bytes, length: int) -> tuple[int, int]:
    """Return (width, height) of a VP8 key frame (RFC 6386, section 9.1)."""
    if body[3:6] != b"\x9d\x01\x2a" or body[0] & 1:
        raise Unscorable(Reason.UNDECODABLE, "the WebP's VP8 chunk is not a key frame")
    if int.from_bytes(body[:3], "little") >> 5 > length - 10:
        raise Unscorable(Reason.TRUNCATED, "the WebP's first partition reaches beyond its chunk")
    return int.from_bytes(body[6:8], "little") & 0x3FFF, int.from_bytes(body[8:10], "little") & 0x3FFF


def _read_lossless(body: bytes) -> tuple[int, int]:
    """Return (width, height) of a VP8L stream (RFC 9649, section 3.4)."""
    bits = int.from_bytes(body[1:5], "little")
    if len(body) < 5 or body[0] != 0x2F or bits >> 29:  # noqa: PLR2004 - signature, then 14 + 14 + 1 + 3 bits
        raise Unscorable(Reason.UNDECODABLE, "the WebP's VP8L chunk has no valid header")
    return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
