"""JPEG XL: the container's boxes and the header of the codestream, no decode (ISO/IEC 18181-1 and 18181-2).

Accepted: a codestream, bare, in a `jxlc` box, or in parts in `jxlp` boxes in order, of whole samples of up to 16 bits.
It states the orientation; EXIF's is ignored, as the standard says. Alpha and other extra channels, previews, profiles
and HDR curves are ignored. Refused: animations, floating-point samples, and CMYK, whose black is an extra channel.
A decoder gets the codestream alone. Not covered: frames larger than the picture; the decoding process is limited.
"""

from collections.abc import Iterator
from typing import NamedTuple

from ingest.formats.header import Header
from ingest.formats.isobmff import EXIF_PREFIX, Box, walk_boxes
from ingest.reasons import Reason, Unscorable

JXL = "image/jxl"
ALPHA, _SPOT_COLOUR, _BLACK, _CFA = 0, 2, 4, 5  # types of extra channels
_CODESTREAM, _CONTAINER = b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n"
_LAST_PART = 1 << 31  # of the number of a `jxlp` box
_GREY = 1  # colour space
_RATIOS = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))  # width to height
_MAX_BITS = 16
_EXTRA_BYTES = 4  # a decoder has a whole number for each pixel of an extra channel
_HEAD_BYTES = 64  # the bits of a sample are stated within them

# How an integer is stored: two bits choose (constant, bits that are added to it).
_SIDE = (1, 9), (1, 13), (1, 18), (1, 30)
_PREVIEW_SIDE = (1, 6), (65, 8), (321, 10), (1345, 12)
_PREVIEW_EIGHTHS = (16, 0), (32, 0), (1, 5), (33, 9)
_ENUM = (0, 0), (1, 0), (2, 4), (18, 6)
_BITS = (8, 0), (10, 0), (12, 0), (1, 6)
_EXTRA_COUNT = (0, 0), (1, 0), (2, 4), (1, 12)
_SHIFT = (0, 0), (3, 0), (4, 0), (1, 3)
_NAME_BYTES = (0, 0), (0, 4), (16, 5), (48, 10)
_CFA_CHANNEL = (1, 0), (0, 2), (3, 4), (19, 8)


class JxlPicture(NamedTuple):
    """What a header states; sides in stored pixels, before `orientation` (1..8, as in EXIF).

    `bits` are those of a colour sample, stated at bit `bits_at`; `extra` the types of the extra channels. `is_linear`
    is whether libjxl gives linear light: the picture is lossy, and only an ICC profile states its colours.
    """

    width: int
    height: int
    orientation: int = 1
    bits: int = 8
    bits_at: int = 0
    extra: tuple[int, ...] = ()
    is_grey: bool = False
    is_linear: bool = False


def is_jxl(data: bytes) -> bool:
    """Return whether `data` begins like a JPEG XL file."""
    return data.startswith((_CODESTREAM, _CONTAINER))


def read_jxl(data: bytes) -> Header:
    """Return what the boxes of `data` and the header of its codestream state.

    Raises:
        Unscorable: truncated, undecodable, unsupported_format or animated.
    """
    picture = open_jxl(strip_jxl(data))
    colour = 3 if picture.bits <= 8 and not picture.is_linear else 6  # noqa: PLR2004 - bits of a sample
    pixel_bytes, exif = colour + _EXTRA_BYTES * len(picture.extra), read_exif_box(data)
    return Header(picture.width, picture.height, exif, pixel_bytes=pixel_bytes, orientation=picture.orientation)


def strip_jxl(data: bytes) -> bytes:
    """Return the codestream. Raises as `read_jxl`."""
    if data.startswith(_CODESTREAM):
        return data
    parts: list[bytes] = []
    ended = False
    for kind, start, end in walk_jxl_boxes(data):
        if kind not in {b"jxlc", b"jxlp"}:
            continue
        body = data[start:end]
        number, body = (_LAST_PART, body) if kind == b"jxlc" else (int.from_bytes(body[:4], "big"), body[4:])
        if ended or number & ~_LAST_PART != len(parts):
            message = "the parts of the JPEG XL file's codestream are not in order, or it has two"
            raise Unscorable(Reason.UNDECODABLE, message)
        ended = bool(number & _LAST_PART)
        parts.append(body)
    if not ended:
        raise Unscorable(Reason.TRUNCATED, "the JPEG XL file has no end of its codestream")
    return b"".join(parts)


def read_exif_box(data: bytes) -> bytes:
    """Return the EXIF block from its TIFF header on; b"" where there is none. Raises as `read_jxl`."""
    block = next((data[start:end] for kind, start, end in walk_jxl_boxes(data) if kind == b"Exif"), b"")
    return block[EXIF_PREFIX + int.from_bytes(block[:EXIF_PREFIX], "big") :]


def walk_jxl_boxes(data: bytes) -> Iterator[Box]:
    """Yield each box; none for a bare codestream. Raises as `read_jxl`."""
    if data.startswith(_CONTAINER):
        yield from walk_boxes(data, len(_CONTAINER), len(data), "JPEG XL")


def open_jxl(codestream: bytes) -> JxlPicture:
    """Return what the header of a codestream states (ISO/IEC 18181-1, annex D). Raises as `read_jxl`."""
    if not codestream.startswith(_CODESTREAM):
        raise Unscorable(Reason.UNDECODABLE, "the JPEG XL file has no codestream")
    bits = _Bits(codestream, 8 * len(_CODESTREAM))
    picture = JxlPicture(*_read_size(bits))
    if bits.take(1):  # all defaults: 8 bits, lossy RGB
        return picture
    if bits.take(1):  # fields that few pictures need
        picture = picture._replace(orientation=1 + bits.take(3))
        if bits.take(1):
            _read_size(bits)  # at which to display it
        if bits.take(1):
            _skip_preview(bits)
        if bits.take(1):
            raise Unscorable(Reason.ANIMATED, "the JPEG XL is animated; send one frame")
    picture = picture._replace(bits_at=bits.position + 1, bits=_read_depth(bits))
    bits.take(1)  # whether 16 bits suffice for the numbers of a lossless decoder
    picture = picture._replace(extra=tuple(_read_extra(bits) for _ in range(bits.choose(_EXTRA_COUNT))))
    if _BLACK in picture.extra or not 1 <= picture.bits <= _MAX_BITS:
        message = (
            f"the JPEG XL is CMYK, or its samples are not whole numbers of up to {_MAX_BITS} bits; convert it first"
        )
        raise Unscorable(Reason.UNSUPPORTED_FORMAT, message)
    is_lossy = bool(bits.take(1))  # stored as XYB, not in the colour space of the picture
    if bits.take(1):  # sRGB
        return picture
    has_profile = bool(bits.take(1))
    return picture._replace(is_linear=is_lossy and has_profile, is_grey=bits.choose(_ENUM) == _GREY)


def deepen_samples(codestream: bytes, picture: JxlPicture) -> bytes:
    """Return the codestream of a lossy picture whose header states 12 or 16 bits; the coded picture stays the same.

    8 bits of linear light are too few for dark colours.
    """
    head, at = int.from_bytes(codestream[:_HEAD_BYTES], "little"), picture.bits_at
    six = head >> at & 3 == 3  # noqa: PLR2004 - six bits follow, the bits of a sample less one
    head = head & ~(63 << at + 2) | 15 << at + 2 if six else head & ~(3 << at) | 2 << at
    return head.to_bytes(len(codestream[:_HEAD_BYTES]), "little") + codestream[_HEAD_BYTES:]


class _Bits:
    """Reads unsigned integers from the lowest bit of each byte on; beyond the end, a codestream is truncated."""

    def __init__(self, data: bytes, position: int) -> None:
        self._data, self.position = data, position

    def take(self, count: int) -> int:
        start, shift = divmod(self.position, 8)
        self.position += count
        if self.position > 8 * len(self._data):
            raise Unscorable(Reason.TRUNCATED, "the JPEG XL file ends within its header")
        return int.from_bytes(self._data[start : -(-self.position // 8)], "little") >> shift & (1 << count) - 1

    def choose(self, choice: tuple[tuple[int, int], ...]) -> int:
        least, count = choice[self.take(2)]
        return least + self.take(count)


def _read_size(bits: _Bits) -> tuple[int, int]:
    """Return (width, height)."""
    small = bits.take(1)
    height = 8 * (1 + bits.take(5)) if small else bits.choose(_SIDE)
    if ratio := bits.take(3):
        across, down = _RATIOS[ratio - 1]
        return height * across // down, height
    return (8 * (1 + bits.take(5)) if small else bits.choose(_SIDE)), height


def _skip_preview(bits: _Bits) -> None:
    side = _PREVIEW_EIGHTHS if bits.take(1) else _PREVIEW_SIDE
    bits.choose(side)
    if not bits.take(3):  # no fixed ratio of width to height
        bits.choose(side)


def _read_depth(bits: _Bits) -> int:
    """Return the bits of a sample, or 0 for floating-point numbers."""
    is_float, depth = bits.take(1), bits.choose(_BITS)
    bits.take(4 * is_float)  # of the exponent
    return 0 if is_float else depth


def _read_extra(bits: _Bits) -> int:
    """Return the type of the next extra channel."""
    if bits.take(1):  # all defaults
        return ALPHA
    kind = bits.choose(_ENUM)
    _read_depth(bits)
    bits.choose(_SHIFT)
    bits.take(8 * bits.choose(_NAME_BYTES))
    if kind == ALPHA:
        bits.take(1)  # whether colours are multiplied with it
    elif kind == _SPOT_COLOUR:
        bits.take(4 * 16)
    elif kind == _CFA:
        bits.choose(_CFA_CHANNEL)
    return kind
