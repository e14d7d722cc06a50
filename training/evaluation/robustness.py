"""Process faces as sites and messengers do: one format for both classes, and how far figures drift in others.

A processed copy is made of a face's 320 px picture, which holds the pixels of the scorer's crop at a higher resolution,
and never of the 224 px crop: reduced so that the face's short side is at most `EQUAL_PX`, compressed, and then cut as
the scorer cuts it. No face is enlarged. The grid of JPEG blocks starts at a place that the face's row chooses, as after
a compression of the whole picture. Photographs and generated faces pass the same steps.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ingest.spec import PreprocessSpec
from scorer.decide import Policy
from scorer.strata import Stratum, stratum_of
from training.data.copies import encode, rescale
from training.export.features import Alteration, Crop

EQUAL_PX, EQUAL_QUALITY = 150, 90
AS_STORED, EQUALISED = "as stored", "JPEG 90"
BLOCK_PX = 8
Step = Callable[[Crop, int], Crop]


@dataclass(frozen=True, slots=True)
class Condition:
    """One way to process a face.

    Attributes:
        name: in tables.
        steps: functions of a picture and its row, after the reduction to `face_px`.
        quality: of the last JPEG, which decides the stratum; None if the result is no JPEG.
        scale: of the face below `EQUAL_PX`; includes the reduction by `steps`.
        reduced_by_steps: the part of `scale` that `steps` reduce themselves.
    """

    name: str
    steps: tuple[Step, ...]
    quality: int | None
    scale: float = 1.0
    reduced_by_steps: float = 1.0

    def measure_faces(self, short_sides: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the short sides [N] of the processed faces in pixels."""
        return np.round(np.minimum(short_sides, EQUAL_PX) * self.scale, 1)

    def find_scored(self, short_sides: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Return which faces [N] the default policy scores; a face that the condition does not reduce further is."""
        if self.scale == 1:
            return np.ones(len(short_sides), dtype=np.bool_)
        return np.asarray(self.measure_faces(short_sides) >= Policy().min_face_px)

    def find_strata(self, short_sides: NDArray[np.float64]) -> list[Stratum]:
        """Return the stratum of each processed face."""
        return [stratum_of(side, self.quality) for side in self.measure_faces(short_sides)]

    def make_alteration(self, short_sides: NDArray[np.float64], spec: PreprocessSpec) -> Alteration:
        """Return the function from a face's 320 px picture and its row to its processed crop."""

        def alter(wide: Crop, row: int) -> Crop:
            return rescale(self.process(wide, short_sides[row], spec.margin, row), spec.size, Image.Resampling.BILINEAR)

        return alter

    def process(self, picture: Crop, short_side: float, margin: float, row: int) -> Crop:
        """Return the processed picture, reduced and never enlarged, before the scorer cuts it to its own size.

        Args:
            picture: [H, W, 3].
            short_side: of the face in the original in pixels.
            margin: the longer side of the picture's window over `short_side`.
            row: of the face.
        """
        longer = min(short_side, EQUAL_PX) * self.scale / self.reduced_by_steps * margin
        picture = resize(picture, longer / max(picture.shape[:2]), Image.Resampling.BICUBIC)
        for step in self.steps:
            picture = step(picture, row)
        return picture


def resize(picture: Crop, share: float, kernel: Image.Resampling) -> Crop:
    """Return a picture [H, W, 3] with `share` of its sides, at least 1 px; it is not enlarged."""
    height, width = (min(side, max(1, round(side * share))) for side in picture.shape[:2])
    return np.asarray(Image.fromarray(picture).resize((width, height), kernel))


def compress(picture: Crop, row: int, kind: str, quality: int) -> Crop:
    """Compress once, with the grid of blocks at a place that the row chooses."""
    down, right = np.random.default_rng(row).integers(BLOCK_PX, size=2)
    padded = np.pad(picture, ((down, 0), (right, 0), (0, 0)), "edge")
    return encode(padded, kind, quality)[down:, right:]


def shrink(picture: Crop, _: int, scale: float) -> Crop:
    """Reduce as a browser shows a picture."""
    return resize(picture, scale, Image.Resampling.BILINEAR)


def blur(picture: Crop, _: int, sigma_px: float) -> Crop:
    """Blur with a Gaussian."""
    return cv2.GaussianBlur(picture, (0, 0), sigma_px).astype(np.uint8, copy=False)


def add_noise(picture: Crop, row: int, deviation: float) -> Crop:
    """Add Gaussian noise with a standard deviation of `deviation` grey levels; a face always gets the same noise."""
    noise = np.random.default_rng(row).normal(0, deviation, picture.shape)
    return np.clip(np.rint(picture + noise), 0, 255).astype(np.uint8)


def list_conditions() -> Iterator[Condition]:
    """Yield all conditions, the format of the equalised figures first."""
    jpeg = {quality: partial(compress, kind="JPEG", quality=quality) for quality in (EQUAL_QUALITY, 75, 60, 50)}
    yield Condition(EQUALISED, (jpeg[EQUAL_QUALITY],), EQUAL_QUALITY)
    for quality in (75, 50):
        yield Condition(f"JPEG {quality}", (jpeg[quality],), quality)
    yield Condition("half size", (jpeg[EQUAL_QUALITY],), EQUAL_QUALITY, scale=0.5)
    screen = jpeg[EQUAL_QUALITY], partial(shrink, scale=0.75)
    yield Condition("screenshot", screen, None, scale=0.75, reduced_by_steps=0.75)
    yield Condition("WebP 75", (partial(compress, kind="WEBP", quality=75),), None)
    yield Condition("JPEG 60, then 90", (jpeg[60], lambda picture, row: jpeg[90](picture, row + 1)), EQUAL_QUALITY)
    yield Condition("blur, then JPEG 90", (partial(blur, sigma_px=1.0), jpeg[EQUAL_QUALITY]), EQUAL_QUALITY)
    yield Condition("noise, then JPEG 90", (partial(add_noise, deviation=5), jpeg[EQUAL_QUALITY]), EQUAL_QUALITY)
