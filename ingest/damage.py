"""Measures which pixels of a JPEG are missing, by a second decode.

libjpeg does not fail where entropy-coded data are missing or wrong. It prints a warning, fills the gap with grey and
returns a picture. The warning alone is no reason to refuse: cameras write filling bytes before restart markers, and a
file without its end marker may contain every pixel. So a picture with a warning is decoded again, with bytes inserted
where its data may end too early. A decoder that has all data never reads them. Pixels that change were missing.

Not measurable: codes that are valid and wrong. Where a code does not exist, or data end early although the end marker
follows, each pixel of that scan or restart interval may be wrong. Then all decoded pixels count as damaged.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ingest.formats import jpeg
from ingest.probe import ImageInfo, strip_metadata

Pixels = NDArray[np.uint8]
# The bytes of a file without metadata -> pixels (H, W, 3), and libjpeg's warning; none for a sound picture.
Decode = Callable[[bytes], tuple[Pixels, str | None]]

# libjpeg prints only its first warning for an image, so that a harmless one may hide another one.
_BEFORE_END = re.compile(r"(\d+) extraneous bytes before marker 0xd9")
_BEFORE_RESTART = re.compile(r"extraneous bytes before marker 0xd[0-7]")
_CUT_SHORT = re.compile("premature end of data|found marker 0xd9 instead of RST")
_STRAY_BYTES = 4  # cameras write up to so many before the end marker; a longer run must repeat one byte

_RESTART = re.compile(rb"\xff[\xd0-\xd7]")  # `strip_metadata` has removed the fill bytes before it
_GAP_BYTES = 64  # inserted before a restart marker
_MAX_RESTARTS = 500_000  # 128 megapixels in intervals of one MCU; limits the inserted bytes
MAX_TAIL_BYTES = 32 * 2**20  # inserted before the end marker: half a byte for each pixel, random codes take less
_MCU_PIXELS, _MCU_BYTES = 64, 128  # pixels of the smallest MCU; code bytes for the largest one


@dataclass(frozen=True, slots=True)
class Damage:
    """Which pixels are missing or may be wrong: `mask` (H, W) is True there."""

    mask: NDArray[np.bool_]

    def can_hide_square(self, side: float) -> bool:
        """Return whether the rectangle around all damaged pixels is at least `side` pixels wide and high."""
        rows, columns = (np.flatnonzero(self.mask.any(axis=axis)) for axis in (1, 0))
        return bool(len(rows) and min(np.ptp(rows), np.ptp(columns)) + 1 >= side)


def measure_damage(data: bytes, info: ImageInfo, pixels: Pixels, warning: str, decode: Decode) -> Damage:
    """Return which of `pixels` are damaged, where `decode` returned them with a `warning`.

    Args:
        data: the original JPEG.
        info: the result of `probe_image`.
        pixels: the whole picture or a part of it, (H, W, 3); `decode` returns the same part.
        warning: libjpeg's warning.
        decode: called once or twice.
    """
    if info.media_type != "image/jpeg":  # a second decode gave other pixels; `ingest.decode_heif`
        return Damage(np.ones(pixels.shape[:2], np.bool_))
    stray, cut_off = _BEFORE_END.search(warning), not info.ended
    if not stray and not _is_measurable(warning, cut_off=cut_off):
        return Damage(np.ones(pixels.shape[:2], np.bool_))
    bare = strip_metadata(data, info.media_type)
    if stray:
        bare, padded = _drop_stray_bytes(bare, int(stray[1]))
        cut_off |= padded  # the codes may have ended before the padding began
        warning = decode(bare)[1] or ""
    if not warning:
        return Damage(np.zeros(pixels.shape[:2], np.bool_))
    if not _is_measurable(warning, cut_off=cut_off) or jpeg.count_restarts(bare) > _MAX_RESTARTS:
        return Damage(np.ones(pixels.shape[:2], np.bool_))
    filled, _ = decode(_fill_gaps(bare, info.width * info.height))
    return Damage((filled != pixels).any(axis=2))


def _is_measurable(warning: str, *, cut_off: bool) -> bool:
    return bool(_BEFORE_RESTART.search(warning) or (cut_off and _CUT_SHORT.search(warning)))


def _drop_stray_bytes(bare: bytes, count: int) -> tuple[bytes, bool]:
    """Return the JPEG without the filling bytes before its end marker, and whether they were a run of one byte.

    The whole run is removed: where lost data were replaced by zeros, the decoder read a part of them as codes.
    """
    stray = bare[-2 - count : -2]
    if len(set(stray)) == 1:
        return bare[:-2].rstrip(stray[:1]) + bare[-2:], True
    return (bare[: -2 - count] + bare[-2:] if count <= _STRAY_BYTES else bare), False


def _fill_gaps(bare: bytes, pixels: int) -> bytes:
    """Return the JPEG with codes inserted before each restart marker of its scans and before its end marker."""
    gap = _make_codes(_GAP_BYTES)
    filled = jpeg.edit_scans(bare, lambda scan: _RESTART.sub(lambda marker: gap + marker[0], scan))
    return b"".join((filled[:-2].rstrip(b"\xff"), _make_tail(bare, pixels), filled[-2:]))


def _make_tail(bare: bytes, pixels: int) -> bytes:
    """Return codes for a whole picture of `pixels`, in restart intervals that continue those of `bare`."""
    interval, last = jpeg.find_restarts(bare)
    if not interval:
        return _make_codes(min(_GAP_BYTES + pixels // 2, MAX_TAIL_BYTES))
    codes = _make_codes(interval * _MCU_BYTES)
    count = min(1 + pixels // (interval * _MCU_PIXELS), MAX_TAIL_BYTES // len(codes))
    return b"".join(codes + bytes([0xFF, 0xD0 + (last + number) % 8]) for number in range(1, count + 1))


def _make_codes(size: int) -> bytes:
    """Return random bytes without 0xFF, which would begin a marker."""
    return np.random.default_rng(0).integers(0, 255, size, np.uint8).tobytes()
