"""Leaves out the rows of a JPEG above its faces, without decoding, where restart markers allow it.

A decoder reads all codes up to the faces, which is most of the time of a cut. It starts anew after a restart marker
(ITU-T T.81, E.2.4), so that the codes after one, which begins a row of MCUs, are a picture of the rows from there on.
Many phones write one marker for each row of MCUs: 23 of 60 photographs of 12 megapixels had markers.
"""

import math
import re
from itertools import cycle, islice

from ingest.formats.jpeg import FRAMES, PROGRESSIVE, RESTARTS, Segment, walk_segments
from ingest.probe import ImageInfo

_RESTART = re.compile(rb"\xff[\xd0-\xd7]")  # begins with a byte, so that `re` finds it with memchr
_SOS, _DRI = 0xDA, 0xDD
_BLOCK_PX = 8
_MAX_MARKERS = 8192  # more cost more than is saved


def drop_rows_above(bare: bytes, info: ImageInfo, top: int) -> tuple[bytes, int]:
    """Return a JPEG without rows above the stored row `top`, and the number of rows that it lacks.

    Its pixels from `top` on are those of the whole picture, bit for bit. The whole file and 0 are returned where it has
    no fitting restart markers, or not exactly those that it should have.

    Args:
        bare: the file without its metadata.
        info: the result of `probe_image`.
        top: the first row that is needed.
    """
    if info.media_type != "image/jpeg" or info.scans != 1:
        return bare, 0
    frame, scan, interval = _read_head(bare)
    if frame.code == PROGRESSIVE or not interval:
        return bare, 0
    row_px, row_mcus = _measure_rows(bare[frame.start : frame.end], info)
    # Markers count modulo eight, so that a multiple of eight intervals is left out. The colours of a row depend on the
    # row above it, which is kept.
    unit_rows = math.lcm(RESTARTS * interval, row_mcus) // row_mcus
    dropped_rows = (top // row_px - 1) // unit_rows * unit_rows
    count = -(-(row_mcus * -(-info.stored_size[1] // row_px)) // interval) - 1
    if dropped_rows <= 0 or count > _MAX_MARKERS:
        return bare, 0
    markers = [found.start() for found in _RESTART.finditer(bare, scan.end)]
    if bytes(bare[marker + 1] for marker in markers) != bytes(islice(cycle(range(0xD0, 0xD8)), count)):
        return bare, 0
    dropped = dropped_rows * row_px
    height = (info.stored_size[1] - dropped).to_bytes(2, "big")
    first = markers[dropped_rows * row_mcus // interval - 1] + 2
    return b"".join((bare[: frame.start + 1], height, bare[frame.start + 3 : scan.end], bare[first:])), dropped


def _read_head(bare: bytes) -> tuple[Segment, Segment, int]:
    """Return the frame header, the header of the first scan, and the MCUs of a restart interval or 0."""
    frame, interval = None, 0
    for segment in walk_segments(bare):
        if segment.code in FRAMES:
            frame = segment
        elif segment.code == _DRI:
            interval = int.from_bytes(bare[segment.start : segment.start + 2], "big")
        elif segment.code == _SOS and frame:
            return frame, segment, interval
    message = "an accepted JPEG has a frame header before its scan"
    raise AssertionError(message)


def _measure_rows(frame: bytes, info: ImageInfo) -> tuple[int, int]:
    """Return the pixels and the number of MCUs of a row of MCUs."""
    factors = [divmod(factor, 16) for factor in frame[7 : 6 + 3 * frame[5] : 3]]
    # The blocks of a picture of one component are not interleaved.
    widest, highest = (1, 1) if len(factors) == 1 else (max(sides) for sides in zip(*factors, strict=True))
    return _BLOCK_PX * highest, -(-info.stored_size[0] // (_BLOCK_PX * widest))
