"""Copies of held-out faces, reduced and compressed as sites and messengers store them.

They fill the strata of a calibration (`scorer.strata`) that photographs as cameras store them leave empty. A copy is
made of the face's 320 px crop, so that no copy has a large face.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from operator import attrgetter

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ingest.spec import PreprocessSpec
from scorer.bundle.manifest import LEAST_STRATUM_PHOTOGRAPHS
from scorer.fitting.calibrate import HeldOutFaces
from scorer.strata import LOW_QUALITY, SMALL_FACE_PX, Stratum, stratum_of
from training.data.shards import FaceSet, Images

Crop = NDArray[np.uint8]
COPIES_OF_A_FACE = 2  # on which a mixture is fitted, beside the face
SMALLEST_FACE_PX = 64  # the default of the policies
LOW_QUALITIES, HIGH_QUALITIES, WEBP_QUALITIES = (50, LOW_QUALITY), (LOW_QUALITY, 97), (70, 95)  # the last is excluded
KERNELS = (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC, Image.Resampling.LANCZOS)


def encode(crop: Crop, kind: str, quality: int) -> Crop:
    """Return the crop after one lossy compression; JPEG has 4:2:0 chroma, as is usual on the web."""
    buffer = io.BytesIO()
    Image.fromarray(crop).save(buffer, kind, quality=quality)
    return np.asarray(Image.open(buffer).convert("RGB"))


def rescale(crop: Crop, side: int, kernel: Image.Resampling) -> Crop:
    """Return the crop resized to `side` pixels; for reduction, Pillow widens every kernel except nearest."""
    return np.asarray(Image.fromarray(crop).resize((side, side), kernel))


def select_rows(stratum: Stratum, short_sides: NDArray[np.float64]) -> NDArray[np.intp]:
    """Return the rows of the faces that can have a copy in `stratum`: a copy is never larger than its original."""
    if not stratum.has_copies:
        return np.array([], dtype=np.intp)
    return np.flatnonzero(short_sides >= (SMALLEST_FACE_PX if stratum.is_small else SMALL_FACE_PX))


@dataclass(frozen=True, slots=True, eq=False)
class StratumCopies:
    """Makes a copy of a face in a stratum; a face always gets the same copy.

    Attributes:
        stratum: of the copies.
        short_sides: [N] of the faces in pixels of their photographs; `select_rows` names those that are possible.
        margin: sides of the crop's window over those of the box.
        size: side of the returned crop.
    """

    stratum: Stratum
    short_sides: NDArray[np.float64]
    margin: float
    size: int

    def make(self, wide: Crop, row: int) -> Crop:
        """Return the copy of the face `row`, whose 320 px crop is `wide`, cut as the scorer cuts it."""
        rng = np.random.default_rng((row, list(Stratum).index(self.stratum)))
        largest = min(self.short_sides[row], len(wide) / self.margin)
        low, high = (SMALLEST_FACE_PX, SMALL_FACE_PX) if self.stratum.is_small else (SMALL_FACE_PX, largest)
        face_px = rng.uniform(low, max(low, min(high, largest)))
        window = min(len(wide), max(1, round(face_px * self.margin)))
        reduced = rescale(wide, window, KERNELS[rng.integers(len(KERNELS))])
        return rescale(self._compress(reduced, rng), self.size, Image.Resampling.BILINEAR)

    def _compress(self, crop: Crop, rng: np.random.Generator) -> Crop:
        if self.stratum in {Stratum.NO_QUALITY, Stratum.SMALL_NO_QUALITY}:
            lossless = rng.random() < 0.5  # noqa: PLR2004 - half are PNG, half WebP
            return crop if lossless else encode(crop, "WEBP", int(rng.integers(*WEBP_QUALITIES)))
        is_low = self.stratum in {Stratum.LOW_QUALITY, Stratum.SMALL_LOW_QUALITY}
        return encode(crop, "JPEG", int(rng.integers(*(LOW_QUALITIES if is_low else HIGH_QUALITIES))))


def make_copies(faces: FaceSet, spec: PreprocessSpec) -> list[Callable[[Crop, int], Crop]]:
    """Return functions of a 320 px crop and its row in `faces`; each returns another copy of the face.

    The copies of neighbouring faces are in different strata. A face always gets the same copies.
    """
    return [partial(_make_copy, faces.short_sides, spec, number) for number in range(COPIES_OF_A_FACE)]


def _make_copy(short_sides: NDArray[np.float64], spec: PreprocessSpec, number: int, wide: Crop, row: int) -> Crop:
    large = short_sides[row] >= SMALL_FACE_PX  # a copy is never larger than its original
    possible = [each for each in Stratum if each.has_copies and (each.is_small or large)]
    stratum = possible[(row + number * len(possible) // COPIES_OF_A_FACE) % len(possible)]
    return StratumCopies(stratum, short_sides, spec.margin, spec.size).make(wide, row)


def score_strata(
    faces: FaceSet,
    values_N: NDArray[np.float64],
    spec: PreprocessSpec,
    score: Callable[[Images, Callable[[Crop, int], Crop]], NDArray[np.float64]],
) -> HeldOutFaces:
    """Return the held-out faces in their own strata, and a copy of each in every stratum in which one can be.

    Faces of usual size in photographs as cameras store them are not completed by copies where there are enough.

    Args:
        faces: of the role calibrate.
        values_N: their log-likelihoods in nats.
        spec: how a face is cut.
        score: returns the log-likelihoods of pictures after a function of a picture and its row changed each.
    """
    own = [
        stratum_of(side, int(quality) or None)
        for side, quality in zip(faces.short_sides, faces.jpeg_qualities, strict=True)
    ]
    parts = [HeldOutFaces(values_N, faces.photos, np.array(own, dtype=np.str_))]
    for stratum in filter(attrgetter("has_copies"), Stratum):
        originals = len(np.unique(faces.photos[parts[0].strata == stratum.value]))
        if stratum is Stratum.HIGH_QUALITY and originals >= LEAST_STRATUM_PHOTOGRAPHS:
            continue
        chosen = faces.select(select_rows(stratum, faces.short_sides))
        if len(chosen):
            copies = StratumCopies(stratum, chosen.short_sides, spec.margin, spec.size)
            copied = score(chosen.wide, copies.make)
            parts.append(HeldOutFaces(copied, chosen.photos, np.full(len(chosen), stratum.value)))
    return HeldOutFaces(
        np.concatenate([part.values for part in parts]),
        np.concatenate([part.photos for part in parts]),
        np.concatenate([part.strata for part in parts]),
    )
