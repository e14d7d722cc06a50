"""Random processing of faces, as sites and editors do it: reduction, small changes, JPEG, and the served resize."""

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from training.data.copies import encode, rescale

Crop = NDArray[np.uint8]
KERNELS = (
    Image.Resampling.BILINEAR,
    Image.Resampling.BICUBIC,
    Image.Resampling.LANCZOS,
    Image.Resampling.BOX,
)
WORKING_SCALES, WHOLE_FROM = (0.45, 1.0), 0.95
REDUCED_SHARE, REDUCED_PX = 0.75, (130, 300)
JPEG_SHARE, QUALITIES = 0.75, (50, 98)  # the last is excluded
BLUR_SHARE, SHARP_SHARE, NOISE_SHARE, SOFT_SHARE = 0.08, 0.06, 0.06, 0.04
BLUR_PX, SHARPNESS, NOISE_LEVELS, SOFT_SCALES = (0.4, 1.3), (0.2, 0.8), (1.0, 6.0), (0.4, 0.8)


def reduce_randomly(crop: Crop, rng: np.random.Generator) -> Crop:
    """Return the crop at a random scale, at which a copier then works; faces that are not copied pass this, too."""
    scale, kernel = rng.uniform(*WORKING_SCALES), KERNELS[rng.integers(len(KERNELS))]
    return crop if scale >= WHOLE_FROM else rescale(crop, round(len(crop) * scale), kernel)


def process(crop: Crop, size: int, rng: np.random.Generator, *, edited: bool) -> Crop:
    """Return the crop, randomly processed and then resized to `size` pixels as the scorer does.

    Args:
        crop: square, larger or smaller than `size`.
        size: side of the result.
        rng: makes all choices.
        edited: whether some crops are blurred, sharpened, noisy, or reduced and enlarged again.
    """
    target = int(np.exp(rng.uniform(*np.log(REDUCED_PX))))
    if rng.random() < REDUCED_SHARE and target < len(crop):
        crop = rescale(crop, target, KERNELS[rng.integers(len(KERNELS))])
    if edited:
        crop = edit(crop, rng)
    if rng.random() < JPEG_SHARE:
        crop = encode(crop, "JPEG", int(rng.integers(*QUALITIES)))
    return rescale(crop, size, Image.Resampling.BILINEAR)


def edit(crop: Crop, rng: np.random.Generator) -> Crop:
    """Return the crop with at most one small change; most crops have none."""
    choice, strength = rng.random(), rng.random()
    bounds = np.cumsum([BLUR_SHARE, SHARP_SHARE, NOISE_SHARE, SOFT_SHARE])
    if choice < bounds[0]:
        return cv2.GaussianBlur(crop, (0, 0), _within(BLUR_PX, strength)).astype(np.uint8, copy=False)
    if choice < bounds[1]:
        gain = _within(SHARPNESS, strength)
        return cv2.addWeighted(crop, 1 + gain, cv2.GaussianBlur(crop, (0, 0), 1.0), -gain, 0).astype(
            np.uint8, copy=False
        )
    if choice < bounds[2]:
        noise = rng.normal(0, _within(NOISE_LEVELS, strength), crop.shape)
        return np.rint(crop + noise).clip(0, 255).astype(np.uint8)
    if choice < bounds[3]:
        small = rescale(crop, max(1, round(len(crop) * _within(SOFT_SCALES, strength))), Image.Resampling.BOX)
        return rescale(small, len(crop), KERNELS[rng.integers(2)])
    return crop


def _within(limits: tuple[float, float], share: float) -> float:
    low, high = limits
    return low + (high - low) * share
