"""Measure the effect of alterations: recompression, blur, noise, resizing.

They are applied to the crops of photographs and generated faces alike, so that detection and cropping do not affect the
result. Each condition gives AUCs and the false-alarm rate, which differs from its target because the calibration
photographs are not altered.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from training.data.copies import encode, rescale
from training.data.shards import Images
from training.evaluation.measures import LogLikelihoods, Rate, auc
from training.evaluation.operating_points import count_flagged
from training.export.features import Alteration, Crop

EQUAL_SIDE, EQUAL_QUALITY = 112, 75
THUMBNAIL_QUALITY = 85
MAX_FACES = 500  # of each generator and of the photographs: 25 conditions of all 5,000 would take an hour on 2 cores
RATE = 0.05
KERNELS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "Lanczos": Image.Resampling.LANCZOS,
}


@dataclass(frozen=True, slots=True)
class Condition:
    """One alteration: its family, e.g. "JPEG", its setting, e.g. "quality 95", and the function on a crop."""

    family: str
    setting: str
    alter: Alteration


@dataclass(frozen=True, slots=True)
class ConditionOutcome:
    """The metrics of one condition.

    Attributes:
        family, setting: of the condition.
        auc: altered generated faces against altered photographs, by generator.
        false_alarms: share of altered photographs flagged at a target of 5 %; None if the calibration is too small.
    """

    family: str
    setting: str
    auc: dict[str, float]
    false_alarms: Rate | None


def compress(crop: Crop, _: int, kind: str, quality: int) -> Crop:
    """Compress once."""
    return encode(crop, kind, quality)


def compress_twice(crop: Crop, _: int, first: int, second: int) -> Crop:
    """Compress as JPEG twice, the second time with the block grid shifted by 4 pixels, as after cropping."""
    return np.roll(encode(np.roll(encode(crop, "JPEG", first), (4, 4), (0, 1)), "JPEG", second), (-4, -4), (0, 1))


def blur(crop: Crop, _: int, sigma_px: float) -> Crop:
    """Blur with a Gaussian."""
    return cv2.GaussianBlur(crop, (0, 0), sigma_px).astype(np.uint8, copy=False)


def add_noise(crop: Crop, row: int, deviation: float) -> Crop:
    """Add Gaussian noise with a standard deviation of `deviation` grey levels; a face always gets the same noise."""
    noise = np.random.default_rng(row).normal(0, deviation, crop.shape)
    return np.clip(np.rint(crop + noise), 0, 255).astype(np.uint8)


def halve_and_restore(crop: Crop, _: int, kernel: Image.Resampling) -> Crop:
    """Resize to half the side and back with one kernel."""
    return rescale(rescale(crop, crop.shape[0] // 2, kernel), crop.shape[0], kernel)


def thumbnail(crop: Crop, _: int, side: int, quality: int) -> Crop:
    """Reduce to a JPEG of `side` pixels, and resize it back as the scorer does."""
    small = encode(rescale(crop, side, Image.Resampling.BILINEAR), "JPEG", quality)
    return rescale(small, crop.shape[0], Image.Resampling.BILINEAR)


equalise_format: Alteration = partial(thumbnail, side=EQUAL_SIDE, quality=EQUAL_QUALITY)
"""Resize to 112 px, compress as JPEG of quality 75, and resize back.

Afterwards, file format, sharpness beyond 112 px and compression history cannot separate the classes.
"""


def list_conditions() -> Iterator[Condition]:
    """Yield all conditions, the untouched crop first."""
    yield Condition("untouched", "", lambda crop, _: crop)
    for quality in (95, 90, 80, 70, 60, 50, 40, 30):
        yield Condition("JPEG", f"quality {quality}", partial(compress, kind="JPEG", quality=quality))
    for quality in (90, 75, 50):
        yield Condition("WebP", f"quality {quality}", partial(compress, kind="WEBP", quality=quality))
    for first, second in ((90, 60), (60, 90)):
        yield Condition("double JPEG", f"{first} then {second}", partial(compress_twice, first=first, second=second))
    for sigma_px in (0.5, 1.0, 2.0):
        yield Condition("blur", f"sigma {sigma_px:g} px", partial(blur, sigma_px=sigma_px))
    for deviation in (2, 5, 10):
        yield Condition("noise", f"{deviation} grey levels", partial(add_noise, deviation=deviation))
    for name, kernel in KERNELS.items():
        yield Condition("resize", f"half and back, {name}", partial(halve_and_restore, kernel=kernel))
    for side in (128, 64):
        yield Condition("thumbnail", f"{side} px", partial(thumbnail, side=side, quality=THUMBNAIL_QUALITY))


def draw_rows(count: int, seed: int = 2024) -> NDArray[np.intp]:
    """Return at most `MAX_FACES` of `count` rows, ascending."""
    return np.sort(np.random.default_rng(seed).permutation(count)[:MAX_FACES])


def evaluate_condition(
    condition: Condition,
    score_crops: Callable[[Images, Alteration], LogLikelihoods],
    photographs: tuple[Images, NDArray[np.str_]],
    generated: Mapping[str, Images],
    calibration: LogLikelihoods,
) -> ConditionOutcome:
    """Return the metrics under one condition.

    Args:
        condition: is applied to every crop.
        score_crops: returns the log-likelihoods of altered crops.
        photographs: crops, and the photograph of each.
        generated: crops by generator.
        calibration: log-likelihoods of unaltered held-out photographs, ascending.
    """
    crops, groups = photographs
    real = score_crops(crops, condition.alter)
    return ConditionOutcome(
        condition.family,
        condition.setting,
        {name: auc(real, score_crops(faces, condition.alter)) for name, faces in generated.items()},
        count_flagged(real, calibration, RATE, groups),
    )
