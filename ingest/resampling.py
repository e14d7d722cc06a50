"""Marks of an image that was made smaller, larger or coarser after it was taken.

Resampling erases what cameras leave, so that a policy's promise does not hold for such images: they are counted apart.
A mark is a hint, not a proof; its bounds were chosen by measurement, stated at each.
"""

from collections.abc import Iterable
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ingest.image_metadata import ImageMetadata

# VGA is the smallest that a camera with EXIF stores. What is smaller was made so, or cut out of something larger.
MIN_CAMERA_SIDE_PX = 640
# 152 faces of quality 88 and more, compressed again: at 50 the median face's log-likelihood moves by 29 nats and the
# faces' ranks correlate at 0.74 with what they were; at 70 20 nats and 0.82, at 90 7 nats and 0.93.
MIN_JPEG_QUALITY = 50
# Measured on 365 faces of 312 photographs as they are, and 5,200 faces made smaller to windows of at most 124 px and
# then larger again, 2 and 3 times. Area under the ROC curve 0.97. At this bound 3.0 % of the former are marked, and of
# the latter 78 %: Lanczos 87 %, bicubic 82 %, bilinear 77 %, bicubic and then JPEG 90 77 %, JPEG 75 68 %. At 0.055
# these are 1.6 and 65 %, at 0.08 5.2 and 87 %. A soft photograph reads like one that was made larger.
MIN_HIGH_BAND = 0.065
MIN_SIDE_PX = 128  # of a crop that can be measured
_LUMINANCE = np.array([299, 587, 114], np.float32)  # BT.601, as JPEG has it, in thousandths
_WINDOW = (np.outer(np.hanning(MIN_SIDE_PX), np.hanning(MIN_SIDE_PX)) / 1000).astype(np.float32)


def _measure_octave(low: float) -> NDArray[np.float32]:
    """Return the weights of the half spectrum's energies for the octave from `low` cycles a pixel."""
    frequency = np.hypot(np.fft.fftfreq(MIN_SIDE_PX)[:, None], np.fft.rfftfreq(MIN_SIDE_PX))
    weights = np.where((frequency >= low) & (frequency < 2 * low), 2, 0).astype(np.float32)
    weights[:, [0, -1]] /= 2  # the other columns stand for their mirrored ones, too
    return weights.ravel()


_UPPER, _LOWER = _measure_octave(0.25), _measure_octave(0.125)


class ResamplingMark(StrEnum):
    """What speaks for a resampled image; the values are part of a scan's results."""

    THUMBNAIL = "thumbnail"
    LOW_QUALITY = "low_quality"
    RESIZED = "resized"
    UPSAMPLED = "upsampled"


def measure_high_band(crop: NDArray[np.uint8]) -> float:
    """Return how much of the finest detail a crop has: a share of energy from 0 to 1, NaN where there is none at all.

    Of the luminance's energy in the two upper octaves, an eighth to a half cycle a pixel, it is the share of the upper
    one. It falls where an image was made larger, since no resampling invents detail. A share of all energy would tell
    less (area under the ROC curve 0.94), because how much of a face is coarse differs from face to face. 0.14 ms.

    Args:
        crop: [S, S, 3] RGB of a window of at least S pixels either way, S >= 128; of a smaller window, the crop lacks
            the upper octave because it was itself enlarged.
    """
    return float(measure_high_bands(crop[np.newaxis], np)[0])


def measure_high_bands(crops_NSSC: Any, xp: Any) -> Any:  # noqa: ANN401 - NumPy's or CuPy's, which has no types
    """Return [N] float32: `measure_high_band` of many crops at once, where they are.

    BLAS adds in another order on another CPU. So its only product here is one of whole numbers, which is exact in any
    order, and so is the sum of them; the energies are added by NumPy, in a fixed order.

    Args:
        crops_NSSC: [N, S, S, 3] of `xp`; S >= 128.
        xp: `numpy` or `cupy`.
    """
    start = (crops_NSSC.shape[1] - MIN_SIDE_PX) // 2
    middle = slice(start, start + MIN_SIDE_PX)
    luminance = crops_NSSC[:, middle, middle].astype(np.float32, order="C") @ xp.asarray(_LUMINANCE)
    luminance -= luminance.mean(axis=(1, 2), keepdims=True, dtype=np.float64).astype(np.float32)
    spectrum = xp.fft.rfft2(luminance * xp.asarray(_WINDOW))
    energy = (spectrum.real**2 + spectrum.imag**2).reshape(len(crops_NSSC), -1)
    upper, lower = ((energy * xp.asarray(weights)).sum(axis=1, dtype=np.float64) for weights in (_UPPER, _LOWER))
    total = upper + lower
    share = xp.where(total > 1, upper / xp.maximum(total, 1), np.nan)  # less energy is rounding
    return share.astype(np.float32)


def find_marks(
    width: int, height: int, traces: ImageMetadata, high_bands: Iterable[float] = ()
) -> tuple[ResamplingMark, ...]:
    """Return the marks of an image.

    Args:
        width: in pixels, upright or as stored; a quarter turn changes nothing here.
        height: likewise.
        traces: what its headers say.
        high_bands: `measure_high_band` of its faces, as far as measured. The image counts as made larger when all of
            them lack detail: one face alone may only be out of focus.
    """
    short, long = sorted((width, height))
    bands = [band for band in high_bands if np.isfinite(band)]
    found = {
        ResamplingMark.THUMBNAIL: long < MIN_CAMERA_SIDE_PX,
        ResamplingMark.LOW_QUALITY: traces.jpeg_quality is not None and traces.jpeg_quality < MIN_JPEG_QUALITY,
        ResamplingMark.RESIZED: _is_resized(short, long, traces),
        ResamplingMark.UPSAMPLED: bool(bands) and max(bands) < MIN_HIGH_BAND,
    }
    return tuple(mark for mark, there in found.items() if there)


def _is_resized(short: int, long: int, traces: ImageMetadata) -> bool:
    """Say whether neither side is one that the EXIF block states; if one is, the image was only cropped.

    Sides are compared by length: software that turns pixels upright often leaves the block as it was. Of 472
    photographs that state their size 100 are marked, 88 of them in the stated proportions.
    """
    if traces.exif_width is None or traces.exif_height is None:
        return False
    stated_short, stated_long = sorted((traces.exif_width, traces.exif_height))
    return short != stated_short and long != stated_long
