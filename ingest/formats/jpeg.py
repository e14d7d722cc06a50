"""JPEG containers: one walk over the markers, no decode (ITU-T T.81, annex B).

Accepted: baseline, extended and progressive Huffman JPEG with 8 bits a sample, grey, YCbCr or RGB, and four-channel
files (CMYK, YCCK) with an Adobe marker; Adobe stores inks inverted. Refused as unsupported: arithmetic, lossless and
hierarchical coding, 12-bit samples, two channels, and four channels without an Adobe marker (decoders disagree whether
the inks are inverted). A second start or frame marker before the first scan makes the file undecodable, since decoders
disagree which one counts; after a scan it ends the picture. Data after the end marker (a phone's second picture) are
ignored. A missing end marker alone is no reason to refuse: `ingest.damage` measures which pixels are missing.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from ingest.formats.header import EXIF_HEADER, Header
from ingest.reasons import Reason, Unscorable

MAGIC = b"\xff\xd8\xff"
_MAX_SEGMENTS = 4096  # photographs have a few hundred at most; a file may have millions of tiny ones

# A marker that is neither stuffing (00), TEM (01) nor restart (D0-D7), after any fill bytes (FF). The expression begins
# with a byte, so that `re` finds it with memchr: 0.3 ns a byte of a photograph's scans, 7 ns a byte at most.
_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd7\xff]")
_FILL_BYTES = re.compile(rb"\xff(?=\xff)")  # a third of the time of `in`, for the same reason

NO_END = -1  # the code of the last segment where the end marker is missing
_RST0, _SOI, _EOI, _SOS, _DRI, _APP0, _APP1, _ADOBE = 0xD0, 0xD8, 0xD9, 0xDA, 0xDD, 0xE0, 0xE1, 0xEE
PROGRESSIVE = 0xC2
_HUFFMAN_FRAMES = frozenset({0xC0, 0xC1, PROGRESSIVE})
FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # these three are no frame headers
_METADATA = frozenset(range(0xE0, 0xF0)) | {0xFE}
# Allowed between scans: tables, number of lines, restart interval, scans, metadata. Any other marker ends the picture.
_BETWEEN_SCANS = frozenset({0xC4, 0xCC, 0xDB, 0xDC, 0xDD, _SOS}) | _METADATA

_ADOBE_BYTES, _JFIF_BYTES = 12, 14  # shorter segments are ignored by every decoder
_JFIF = b"JFIF\0\x01\x01\x00\x00\x01\x00\x01\x00\x00"  # revision 1.01, no thumbnail
_RGB_OR_CMYK, _YCBCR, _YCCK = 0, 1, 2  # Adobe's colour transforms
_COEFFICIENTS = 64  # of a block
RESTARTS = 8  # restart markers count modulo eight


class Segment(NamedTuple):
    """A marker segment; the last one is the end marker, or `NO_END` where it is missing.

    Attributes:
        code: the marker's second byte.
        marker: the position of the marker.
        start, end: the segment's body, without its length.
    """

    code: int
    marker: int
    start: int
    end: int


def read_jpeg(data: bytes, max_scans: int) -> Header:
    """Walk the markers of `data` and return what its frame header and EXIF segment state.

    Raises:
        Unscorable: truncated, undecodable, unsupported_format or too_many_scans.
    """
    frames: list[tuple[int, bytes]] = []
    scans: list[bytes] = []
    exif, adobe, ended = b"", False, False
    for code, _, start, end in walk_segments(data):
        if code in FRAMES:
            frames.append((code, data[start:end]))
        elif code == _SOS:
            scans.append(data[start:end])
            if len(scans) > max_scans:
                message = f"the JPEG has more than {max_scans} scans (setting limits.max_scans)"
                raise Unscorable(Reason.TOO_MANY_SCANS, message)
        elif code == _APP1 and not exif and EXIF_HEADER.match(data, start, end):
            exif = data[start:end]
        elif code == _ADOBE:
            adobe |= _is_adobe(data[start:end])
        ended |= code == _EOI
    if len(frames) != 1 or not scans:
        raise Unscorable(Reason.UNDECODABLE, f"the JPEG has {len(frames)} frame headers and {len(scans)} scans")
    code, frame = frames[0]
    width, height = _read_frame(code, frame, adobe=adobe)
    if not ended and not _has_every_scan(code, frame, scans):
        raise Unscorable(Reason.TRUNCATED, f"the JPEG's {len(data)} bytes end before its last scan")
    pixel_bytes = 3 + _count_held_bytes(frame) if code == PROGRESSIVE or len(scans) > 1 else 3
    return Header(width, height, exif, len(scans), pixel_bytes, ended=ended)


def strip_jpeg(data: bytes) -> bytes:
    """Return the same picture without comments, EXIF, profiles, thumbnails and the data after its end.

    So no decoder written in C parses untrusted metadata. Some header fields affect no pixel, and some cameras write
    them wrong. These get the values that the decoder assumes: the parameters of a sequential scan, the revision of
    JFIF, an unknown colour transform. A missing end marker is added. `read_jpeg` accepted `data`.
    """
    frame, channels = next((s.code, data[s.start + 5]) for s in walk_segments(data) if s.code in FRAMES)
    parts, scan_start = [data[:2]], 0
    for code, marker, start, end in walk_segments(data):
        parts.append(_drop_fill_bytes(data[scan_start:marker]) if scan_start else b"")
        body, kept = data[start:end], code not in (_EOI, NO_END)
        if code == _SOS and frame != PROGRESSIVE:
            body = body[:-3] + bytes([0, _COEFFICIENTS - 1, 0])
        elif code == _APP0 and body.startswith(b"JFIF\0") and len(body) >= _JFIF_BYTES:
            body = _JFIF
        elif code == _ADOBE and _is_adobe(body):
            body = _set_known_transform(body[:_ADOBE_BYTES], channels)
        else:
            kept &= code not in _METADATA
        if kept:
            parts.append(bytes([0xFF, code]) + (len(body) + 2).to_bytes(2, "big") + body)
        # Bytes after metadata are no part of a scan, and must not become one when the metadata are removed.
        scan_start = end if code == _SOS or (scan_start and code not in _METADATA) else 0
    return b"".join((*parts, b"\xff\xd9"))


def _drop_fill_bytes(scan: bytes) -> bytes:
    """Return entropy-coded data without the fill bytes that are allowed before a marker, so that none are decoded.

    A fill byte at the end would form a marker with the next byte.
    """
    while _FILL_BYTES.search(scan):
        scan = scan.replace(b"\xff\xff", b"\xff")  # each round halves a run
    return scan.rstrip(b"\xff")


def edit_scans(data: bytes, edit: Callable[[bytes], bytes]) -> bytes:
    """Return the JPEG with `edit` applied to the entropy-coded data of each scan. `read_jpeg` accepted `data`."""
    parts: list[bytes] = []
    position, scanned = 0, False
    for code, marker, _, end in walk_segments(data):
        between = data[position:marker]
        parts += [edit(between) if scanned else between, data[marker:end]]
        position, scanned = end, scanned or code == _SOS
    return b"".join((*parts, data[position:]))


def find_restarts(data: bytes) -> tuple[int, int]:
    """Return (MCUs in a restart interval, 0 without restarts; the last restart marker's number, -1 without one)."""
    interval, position = 0, 0
    for code, _, start, end in walk_segments(data):
        if code == _DRI and end - start >= 2:  # noqa: PLR2004 - the interval has two bytes
            interval = int.from_bytes(data[start : start + 2], "big")
        position = end if code == _SOS else position
    last = max((data.rfind(bytes([0xFF, _RST0 + number]), position), number) for number in range(RESTARTS))
    return interval, last[1] if last[0] >= 0 else -1


def count_restarts(data: bytes) -> int:
    """Return the number of restart markers, including those in metadata."""
    return sum(data.count(bytes([0xFF, _RST0 + number])) for number in range(RESTARTS))


def walk_segments(data: bytes) -> Iterator[Segment]:
    """Yield each marker segment; the last one is the end of the picture.

    Raises:
        Unscorable: truncated before the first scan, or undecodable.
    """
    position, scanned = 2, False
    for _ in range(_MAX_SEGMENTS):
        found = _MARKER.search(data, position)
        if found is None and not scanned:
            raise Unscorable(Reason.TRUNCATED, f"the JPEG's {len(data)} bytes contain no end marker")
        marker = len(data) if found is None else found.start()
        code = NO_END if found is None else data[marker + 1]
        if code == _EOI or (scanned and code not in _BETWEEN_SCANS):
            yield Segment(code if code == _EOI else NO_END, marker, marker, marker)
            return
        if code == _SOI:
            raise Unscorable(Reason.UNDECODABLE, "the JPEG has a second start marker")
        start = marker + 4
        length = int.from_bytes(data[marker + 2 : start], "big")
        if length < 2 and code in _METADATA:  # noqa: PLR2004 - a length counts its own two bytes; decoders ignore it
            length = 2
        position = marker + 2 + length
        if start > len(data) or position > len(data):
            if scanned:
                yield Segment(NO_END, marker, marker, marker)
                return
            raise Unscorable(Reason.TRUNCATED, f"JPEG segment 0x{code:02x} reaches beyond the file's {len(data)} bytes")
        if length < 2:  # noqa: PLR2004 - as above
            raise Unscorable(Reason.UNDECODABLE, f"JPEG segment 0x{code:02x} has length {length}")
        yield Segment(code, marker, start, position)
        scanned |= code == _SOS
    raise Unscorable(Reason.UNDECODABLE, f"the JPEG has more than {_MAX_SEGMENTS} segments")


def _is_adobe(body: bytes) -> bool:
    return body.startswith(b"Adobe") and len(body) >= _ADOBE_BYTES


def _set_known_transform(body: bytes, channels: int) -> bytes:
    """Return an Adobe segment that states a known colour transform: an unknown one becomes YCbCr or YCCK."""
    transformed = _YCCK if channels == 4 else _YCBCR  # noqa: PLR2004 - CMYK or YCCK
    return body[:-1] + bytes([body[-1] if body[-1] in (_RGB_OR_CMYK, transformed) else transformed])


def _read_frame(code: int, frame: bytes, *, adobe: bool) -> tuple[int, int]:
    """Return (width, height) of a start-of-frame body."""
    if code not in _HUFFMAN_FRAMES:
        raise Unscorable(Reason.UNSUPPORTED_FORMAT, f"JPEG frame type 0x{code:02x} is not Huffman-coded DCT")
    if len(frame) < 6 or len(frame) < 6 + 3 * frame[5]:  # noqa: PLR2004 - T.81 B.2.2: 6 bytes, then 3 a component
        raise Unscorable(Reason.UNDECODABLE, "the JPEG frame header is too short")
    bits, channels = frame[0], frame[5]
    if bits != 8:  # noqa: PLR2004 - bits a sample
        raise Unscorable(Reason.UNSUPPORTED_FORMAT, f"the JPEG has {bits} bits a sample; 8 are supported")
    if channels not in (1, 3, 4):
        raise Unscorable(Reason.UNSUPPORTED_FORMAT, f"the JPEG has {channels} channels; 1, 3 and 4 are supported")
    if channels == 4 and not adobe:  # noqa: PLR2004 - CMYK or YCCK
        message = "the JPEG is CMYK without an Adobe marker: whether its inks are inverted is undefined"
        raise Unscorable(Reason.UNSUPPORTED_FORMAT, message)
    return int.from_bytes(frame[3:5], "big"), int.from_bytes(frame[1:3], "big")


def _count_held_bytes(frame: bytes) -> int:
    """Return the coefficients' bytes for each pixel; a decoder of several scans keeps them until the last one."""
    factors = [divmod(factor, 16) for factor in frame[7 : 6 + 3 * frame[5] : 3]]
    widest, highest = (max(1, *sides) for sides in zip(*factors, (0, 0), strict=True))
    samples = sum(across * down for across, down in factors)
    return int(-(-2 * samples // (widest * highest)))


def _has_every_scan(code: int, frame: bytes, scans: Sequence[bytes]) -> bool:
    """Return whether the scans contain every coefficient of every component in full precision (T.81, annex G)."""
    components = {frame[position] for position in range(6, 6 + 3 * frame[5], 3)}
    missing = {(component, index) for component in components for index in range(_COEFFICIENTS)}
    for scan in scans:
        named, (first, last, precision) = scan[1:-3:2], scan[-3:].rjust(3, b"\0")
        if code != PROGRESSIVE:
            first, last, precision = 0, _COEFFICIENTS - 1, 0
        if precision & 15 == 0:
            missing -= {(component, index) for component in named for index in range(first, last + 1)}
    return not missing
