"""Marks of an image that was reduced, enlarged or compressed strongly after it was taken.

Resampling erases the traces of cameras, so that a policy's false-alarm rate does not hold for such images: scans count
them separately. A mark is a hint, not a proof. Each threshold was chosen by the measurement that is stated with it.
"""

from collections.abc import Iterable
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ingest.image_metadata import ImageMetadata

# VGA is the smallest size that a camera with EXIF stores. A smaller image was reduced, or cut out of a larger one.
MIN_CAMERA_SIDE_PX = 640
# Measured on 152 faces of quality 88 and more, compressed again. At 50 the median face's log-likelihood changes by
# 29 nats, and the faces' ranks correlate by 0.74 with those before; at 70 20 nats and 0.82; at 90 7 nats and 0.93.
MIN_JPEG_QUALITY = 50
# Measured on 365 unchanged faces of 312 photographs, and on 5,200 faces reduced to windows of at most 124 px and then
# enlarged 2 and 3 times. Area under the ROC curve 0.97. At this threshold 3.0 % of the former are marked, and 78 % of
# the latter: Lanczos 87 %, bicubic 82 %, bilinear 77 %, bicubic and then JPEG 90 77 %, JPEG 75 68 %. At 0.055 it is
# 1.6 % and 65 %, at 0.08 5.2 % and 87 %. A soft photograph measures like an enlarged one.
MIN_HIGH_BAND = 0.065
MIN_SIDE_PX = 128  # of a measurable crop
_LUMINANCE = np.array([299, 587, 114], np.float32)  # BT.601, as JPEG has it, in thousandths
_WINDOW = (np.outer(np.hanning(MIN_SIDE_PX), np.hanning(MIN_SIDE_PX)) / 1000).astype(np.float32)


def _make_octave_weights(low: float) -> NDArray[np.float32]:
    """Return the weights of the half spectrum's energies for the octave that begins at `low` cycles a pixel."""
    frequency = np.hypot(np.fft.fftfreq(MIN_SIDE_PX)[:, None], np.fft.rfftfreq(MIN_SIDE_PX))
    weights = np.where((frequency >= low) & (frequency < 2 * low), 2, 0).astype(np.float32)
    weights[:, [0, -1]] /= 2  # each other column represents its mirrored one, too
    return weights.ravel()


_UPPER, _LOWER = _make_octave_weights(0.25), _make_octave_weights(0.125)


class ResamplingMark(StrEnum):
    """A sign that an image was resampled; the values are part of results."""

    THUMBNAIL = "thumbnail"
    LOW_QUALITY = "low_quality"
    RESIZED = "resized"
    UPSAMPLED = "upsampled"


def measure_high_band(crop: NDArray[np.uint8]) -> float:
    """Return a crop's share of fine detail: a share of energy from 0 to 1, NaN where the crop has no detail.

    It is the upper octave's share of the luminance's energy in the two upper octaves (an eighth to a half cycle a
    pixel). It is lower in an enlarged image, since resampling adds no detail. A share of the whole energy separates
    less (area under the ROC curve 0.94), because the amount of coarse detail differs from face to face. 0.14 ms.

    Args:
        crop: [S, S, 3] RGB, S >= 128, of a window of at least S x S pixels. The crop of a smaller window lacks the
            upper octave because the crop itself was enlarged.
    """
    return float(measure_high_bands(crop[np.newaxis], np)[0])


def measure_high_bands(crops_NSSC: Any, xp: Any) -> Any:  # noqa: ANN401 - NumPy's or CuPy's, which has no types
    """Return [N] float32: `measure_high_band` of several crops at once, on their device.

    The order in which BLAS adds depends on the CPU. So its only product here is one of whole numbers, whose sum is
    exact in any order. NumPy adds the energies in a fixed order.

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
    share = xp.where(total > 1, upper / xp.maximum(total, 1), np.nan)  # a smaller energy is a rounding error
    return share.astype(np.float32)


def find_marks(
    width: int, height: int, metadata: ImageMetadata, high_bands: Iterable[float] = ()
) -> tuple[ResamplingMark, ...]:
    """Return the marks of an image.

    Args:
        width: in pixels, upright or stored: a quarter turn changes no mark.
        height: likewise.
        metadata: what its headers state.
        high_bands: `measure_high_band` of its measured faces. The image counts as enlarged if all of them lack detail:
            a single face may be out of focus.
    """
    short, long = sorted((width, height))
    bands = [band for band in high_bands if np.isfinite(band)]
    found = {
        ResamplingMark.THUMBNAIL: long < MIN_CAMERA_SIDE_PX,
        ResamplingMark.LOW_QUALITY: metadata.jpeg_quality is not None and metadata.jpeg_quality < MIN_JPEG_QUALITY,
        ResamplingMark.RESIZED: _is_resized(short, long, metadata),
        ResamplingMark.UPSAMPLED: bool(bands) and max(bands) < MIN_HIGH_BAND,
    }
    return tuple(mark for mark, is_found in found.items() if is_found)


def _is_resized(short: int, long: int, metadata: ImageMetadata) -> bool:
    """Return whether no side has a length that the EXIF block states; if one has, the image was only cropped.

    The shorter and the longer sides are compared: software that turns pixels upright often leaves the block unchanged.
    Of 472 photographs that state their size, 100 are marked, 88 of them with the stated proportions.
    """
    if metadata.exif_width is None or metadata.exif_height is None:
        return False
    stated_short, stated_long = sorted((metadata.exif_width, metadata.exif_height))
    return short != stated_short and long != stated_long
