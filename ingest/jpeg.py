"""JPEG containers: one walk over the markers, no decode (ITU-T T.81, annex B).

Policy. Accepted: baseline, extended and progressive Huffman JPEG with 8 bits a sample, grey, YCbCr or RGB,
and four-channel (CMYK, YCCK) files that carry an Adobe marker, whose inks Adobe stores inverted. Refused as
unsupported: arithmetic, lossless and hierarchical coding, 12-bit samples, two channels, and four channels
without an Adobe marker (decoders disagree about its polarity). A second start or frame marker is undecodable:
decoders differ in which one they believe. Data after the end marker (a phone's second picture) is ignored.
"""

import re
from collections.abc import Iterator

from ingest.header import Header
from ingest.reasons import Reason, Unscorable

MAGIC = b"\xff\xd8\xff"
_MAX_SEGMENTS = 4096  # photographs have a few hundred at most; bounds the walk over millions of tiny segments

# The next marker that is neither stuffing (00), TEM (01), restart (D0-D7) nor a fill byte (FF). It cannot
# backtrack, so entropy-coded data and padding are skipped at the speed of memory.
_NEXT_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd7\xff]")

_ADOBE_BYTES = 12  # shorter Adobe segments are ignored by every decoder
_SOI, _EOI, _SOS, _APP0, _APP1, _ADOBE = 0xD8, 0xD9, 0xDA, 0xE0, 0xE1, 0xEE
_HUFFMAN_FRAMES = frozenset({0xC0, 0xC1, 0xC2})
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # those three are tables, not frames
_METADATA = frozenset(range(0xE0, 0xF0)) - {_APP0, _ADOBE} | {0xFE}  # JFIF and Adobe decide the colour space


def read_jpeg(data: bytes, max_scans: int) -> Header:
    """Walk every marker of `data` and return what the frame header says.

    Raises:
        Unscorable: truncated, undecodable, unsupported_format or too_many_scans.
    """
    frames: list[tuple[int, bytes]] = []
    exif, adobe, scans = b"", False, 0
    for code, start, end in walk_segments(data):
        if code in _FRAMES:
            frames.append((code, data[start:end]))
        elif code == _SOS:
            scans += 1
            if scans > max_scans:
                raise Unscorable(Reason.TOO_MANY_SCANS, f"the JPEG has more than {max_scans} scans")
        elif code == _APP1 and not exif and data.startswith(b"Exif\0\0", start):
            exif = data[start:end]
        elif code == _ADOBE:
            adobe |= end - start >= _ADOBE_BYTES and data.startswith(b"Adobe", start)
    if len(frames) != 1 or not scans:
        raise Unscorable(Reason.UNDECODABLE, f"the JPEG has {len(frames)} frame headers and {scans} scans")
    width, height = _read_frame(*frames[0], adobe=adobe)
    return Header(width, height, exif, scans)


def strip_jpeg(data: bytes) -> bytes:
    """Return the same picture without comments, EXIF, profiles and thumbnails.

    A decoder written in C then never parses metadata from strangers. `data` passed `read_jpeg`.
    """
    parts = [data[:2]]
    for code, start, end in walk_segments(data):
        if code == _SOS:
            parts.append(data[start - 4 :])
            break
        if code not in _METADATA:
            parts.append(data[start - 4 : end])
    return b"".join(parts)


def walk_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield (marker code, start, end) of each segment's body until the end marker."""
    position = 2
    for _ in range(_MAX_SEGMENTS):
        found = _NEXT_MARKER.search(data, position)
        if found is None:
            raise Unscorable(Reason.TRUNCATED, f"the JPEG's {len(data)} bytes hold no end marker")
        start = found.end() + 2
        code = data[found.end() - 1]
        if code == _EOI:
            return
        if code == _SOI:
            raise Unscorable(Reason.UNDECODABLE, "the JPEG has a second start marker")
        length = int.from_bytes(data[found.end() : start], "big")
        position = found.end() + length
        if start > len(data) or position > len(data):
            raise Unscorable(Reason.TRUNCATED, f"JPEG segment 0x{code:02x} reaches past byte {len(data)}, the last one")
        if length < 2:  # noqa: PLR2004 - a segment's length counts its own two bytes
            raise Unscorable(Reason.UNDECODABLE, f"JPEG segment 0x{code:02x} has length {length}")
        yield code, start, position
    raise Unscorable(Reason.UNDECODABLE, f"the JPEG has more than {_MAX_SEGMENTS} segments")


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
        raise Unscorable(Reason.UNSUPPORTED_FORMAT, "a CMYK JPEG without an Adobe marker leaves its inks undefined")
    return int.from_bytes(frame[3:5], "big"), int.from_bytes(frame[1:3], "big")
