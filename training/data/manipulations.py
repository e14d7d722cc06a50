"""Artificial manipulations of photographic faces (section II-A of the paper), and the resampling of both classes.

A manipulated face differs from an untouched one in the manipulation only: both start from the same wide crop and pass
one bicubic resampling and one area reduction. The authors' release resampled manipulated faces only, so that resampling
alone separated the classes. A warp moves every pixel by another fraction of a pixel. So that untouched and flipped
faces are interpolated, too, every face is rotated by up to a degree and shifted by up to half a pixel. This is the only
change that the paper does not have; a recipe can augment further. With `AugmentRule.processing`, both classes then pass
one random processing, too (`training.data.processing`). A copy is made after a first random reduction of both classes.

At 84 to 100 cycles a crop, an untouched face has 0.81 of the power of the crop as served (geometric mean of 120
photographs; bilinear resampling: 0.52). On white noise, warped faces have 0.98 of the power of untouched ones there;
without the common rotation and shift it would be 0.87.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from training.data.landmarks import LEFT_EYE, MOUTH, RIGHT_EYE
from training.data.processing import process, reduce_randomly
from training.data.shards import WIDE_SIZE
from training.data.warps import Map, piecewise_affine_shift
from training.recipes import AugmentRule, Manipulation

Face = NDArray[np.uint8]
Points = NDArray[np.float32]
FaceFunction = Callable[[Face, np.random.Generator], Face]


EYES = {"any": ((True, False), (False, True), (True, True)), "one": ((True, False), (False, True))}
VERTICAL_AXES = {"mirror": (0,), "half_turn": (0, 1)}
EYE_MARGIN, MOUTH_MARGIN = 0.5, 0.25  # of the region's size
REDUCTION, COPYING, PROCESSING, RANKING = range(4)  # streams of random numbers
JITTER_DEG, JITTER_PX = 1.0, 0.5  # largest rotation and shift of every face, so that all classes are interpolated


@dataclass(frozen=True, slots=True, eq=False)
class Augmentation:
    """All random choices for one training face. A face, its landmarks and an augmentation determine one crop.

    Attributes:
        kind: the manipulation.
        eyes: whether an eye flip mirrors the right eye and the left eye.
        warp: index of the sampler's warp that a piecewise affine manipulation uses.
        matrix: [2, 3], maps a pixel (x, y, 1) of the resampled face to a pixel of the wide crop, both of one size.
        mirrored: whether the finished crop is mirrored, of every task and class.
        seed: of the copy and of the processing.
    """

    kind: Manipulation
    eyes: tuple[bool, bool]
    warp: int
    matrix: NDArray[np.float64]
    mirrored: bool
    seed: int

    def make_generator(self, stream: int) -> np.random.Generator:
        """Return the random numbers of one of the steps after the resampling; each step has its own."""
        return np.random.default_rng((self.seed, stream))


def flip_region(face: Face, points: Points, axes: tuple[int, ...], margin: float) -> Face:
    """Return `face` with the region of `points` mirrored along `axes` (0 vertical, 1 horizontal) and blended in.

    The region is the bounding box of the points, widened by `margin` of its size. The mirror line lies on whole or half
    pixels, so that no pixel is interpolated. The blend is linear (section II-A, Fig. 3), with the convex hull of the
    points, widened and blurred, as mask. `face` is not modified.
    """
    side = face.shape[0]
    low, high = points.min(axis=0), points.max(axis=0)
    grow = (high - low) * margin + 2
    left, top = np.clip(np.floor(low - grow).astype(int), 0, side - 1)
    right, bottom = np.clip(np.ceil(high + grow).astype(int), 1, side)
    if right - left < 4 or bottom - top < 4:  # noqa: PLR2004 - nothing to mirror
        return face
    region = face[top:bottom, left:right].astype(np.float32)
    mirrored = np.flip(region, axes)
    hull = cv2.convexHull((points - (left, top)).round().astype(np.int32))
    mask: NDArray[Any] = np.zeros(region.shape[:2], dtype=np.float32)
    cv2.fillConvexPoly(mask, hull, 1.0)
    mask = np.maximum(mask, np.flip(mask, axes))
    reach = max(1, round(min(region.shape[:2]) * margin / 2))
    mask = cv2.dilate(mask, np.ones((reach, reach), dtype=np.uint8))
    # The blur must reach zero at the region's edge; else the edge would reveal the manipulation.
    mask = cv2.GaussianBlur(cv2.copyMakeBorder(mask, 1, 1, 1, 1, cv2.BORDER_CONSTANT), (0, 0), reach / 2)[1:-1, 1:-1]
    blended = face.copy()
    weight = mask[..., None]
    blended[top:bottom, left:right] = np.rint(region + (mirrored - region) * weight).astype(np.uint8)
    return blended


def resample(
    image: NDArray[Any], mapping: tuple[NDArray[np.float32], NDArray[np.float32]], border: int
) -> NDArray[Any]:
    """Return `image` sampled at `mapping`, x and y in its pixels: uint8 pictures bicubically, maps bilinearly."""
    kernel = cv2.INTER_CUBIC if image.dtype == np.uint8 else cv2.INTER_LINEAR
    return cv2.remap(image, *mapping, kernel, borderMode=border)


@dataclass(frozen=True, slots=True, eq=False)
class FaceSampler:
    """Draws faces of the manipulation task. The piecewise affine warps are made once, because each costs 0.2 s.

    `draw` makes the random choices and `apply` executes them: `manipulate` changes the wide crop, and `resample` is the
    same for all classes, except for the copies in it. Without copies and processing, another device can execute the
    resampling of the same augmentation.

    Attributes:
        size: side of the resulting crops in pixels.
        rule: how faces are drawn.
        shifts: piecewise affine warps of the wide crop: the offset (x, y) in pixels to where each pixel comes from.
        copier: returns a copy of a face; None: no copies are drawn.
    """

    size: int
    rule: AugmentRule
    shifts: tuple[Map, ...]
    copier: FaceFunction | None = None

    def draw_kind(self, rng: np.random.Generator) -> Manipulation:
        """Return a manipulation with the rule's probabilities; all kinds beside copies are equally likely."""
        if rng.random() >= self.rule.manipulated_share:
            return Manipulation.NONE
        if self.rule.copiers is not None and rng.random() < self.rule.copiers.share:
            return Manipulation.COPY
        return self.rule.kinds[rng.integers(len(self.rule.kinds))]

    def draw(self, rng: np.random.Generator, kind: Manipulation, side: int = WIDE_SIZE) -> Augmentation:
        """Make the random choices for a face with a wide crop of `side` pixels; `kind` does not affect the others."""
        angle = np.deg2rad((JITTER_DEG + self.rule.rotation_deg) * rng.uniform(-1, 1))
        zoom = 1 + rng.uniform(-self.rule.zoom, self.rule.zoom)
        turn = zoom * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        shift = (JITTER_PX + self.rule.shift * side) * rng.uniform(-1, 1, 2)
        centre = np.full(2, (side - 1) / 2)
        matrix = np.column_stack([turn, centre + shift - turn @ centre])
        eyes = EYES[self.rule.eyes]
        return Augmentation(
            kind,
            eyes[rng.integers(len(eyes))],
            int(rng.integers(len(self.shifts))) if self.shifts else 0,
            matrix,
            self.rule.mirror and bool(rng.random() < 0.5),  # noqa: PLR2004 - a fair coin
            int(rng.integers(2**32)),
        )

    def manipulate(self, face: Face, points: Points, augmentation: Augmentation) -> Face:
        """Return the wide `face` with the flips of `augmentation`; piecewise affine warps are part of `resample`."""
        if augmentation.kind is Manipulation.EYE_FLIP:
            for wanted, eye in zip(augmentation.eyes, (RIGHT_EYE, LEFT_EYE), strict=True):
                face = flip_region(face, points[eye], (1,), EYE_MARGIN) if wanted else face
        elif augmentation.kind is Manipulation.MOUTH_FLIP_HORIZONTAL:
            face = flip_region(face, points[MOUTH], (1,), MOUTH_MARGIN)
        elif augmentation.kind is Manipulation.MOUTH_FLIP_VERTICAL:
            face = flip_region(face, points[MOUTH], VERTICAL_AXES[self.rule.vertical_mouth], MOUTH_MARGIN)
        return face

    def build_map(self, augmentation: Augmentation, side: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return where each pixel of a wide crop of `side` pixels comes from, x and y, [side, side] each."""
        across, down = map_pixels(augmentation.matrix, side)
        if augmentation.kind is not Manipulation.PIECEWISE_AFFINE:
            return across, down
        # One combined map: a second resampling would blur this class only.
        shift = resample(self.shifts[augmentation.warp], (across, down), cv2.BORDER_REPLICATE)
        return across + shift[..., 0], down + shift[..., 1]

    def resample(self, face: Face, augmentation: Augmentation) -> Face:
        """Return the [size, size, 3] crop of a wide `face`, manipulated or untouched."""
        turned = resample(face, self.build_map(augmentation, face.shape[0]), cv2.BORDER_REFLECT_101)
        if self.rule.processing:
            turned = reduce_randomly(turned, augmentation.make_generator(REDUCTION))
        if augmentation.kind is Manipulation.COPY:
            turned = self._copy(turned, augmentation)
        if self.rule.processing:
            small = process(turned, self.size, augmentation.make_generator(PROCESSING), edited=True)
        else:
            small = np.asarray(cv2.resize(turned, (self.size, self.size), interpolation=cv2.INTER_AREA), np.uint8)
        return mirror(small, augmentation)

    def _copy(self, face: Face, augmentation: Augmentation) -> Face:
        if self.copier is None:
            message = "this sampler has no copier: give one to `make_sampler`"
            raise ValueError(message)
        return self.copier(face, augmentation.make_generator(COPYING))

    def process_ranked(self, face: Face, augmentation: Augmentation) -> Face | None:
        """Return the crop of a wide `face` for the ranking task if it is processed; None if it is as served."""
        rng = augmentation.make_generator(RANKING)
        if rng.random() >= self.rule.processed_ranking:
            return None
        return mirror(process(face, self.size, rng, edited=False), augmentation)

    def apply(self, face: Face, points: Points, augmentation: Augmentation) -> Face:
        """Return the [size, size, 3] crop of the wide `face`, [W, W, 3], that `augmentation` describes."""
        return self.resample(self.manipulate(face, points, augmentation), augmentation)

    def sample(self, face: Face, points: Points, kind: Manipulation, rng: np.random.Generator) -> Face:
        """Draw an augmentation and apply it."""
        return self.apply(face, points, self.draw(rng, kind, face.shape[0]))


def mirror(crop: Face, augmentation: Augmentation) -> Face:
    """Return the crop, mirrored if `augmentation` says so."""
    return np.ascontiguousarray(crop[:, ::-1]) if augmentation.mirrored else crop


def map_pixels(matrix: NDArray[np.float64], side: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the coordinates x and y, [side, side] each, that `matrix` maps each pixel of a square image to."""
    axis = np.arange(side)
    across, down = (
        ((row[0] * axis + row[2])[None].astype(np.float32) + (row[1] * axis)[:, None].astype(np.float32))
        for row in matrix
    )
    return across, down


def make_sampler(
    size: int, wide_size: int, rule: AugmentRule, seed: int | Sequence[int], copier: FaceFunction | None = None
) -> FaceSampler:
    """Build a sampler with `rule.warps` piecewise affine warps over crops of `wide_size` pixels."""
    rng = np.random.default_rng(seed)
    scales, seeds = rng.uniform(*rule.affine_scale, rule.warps), rng.integers(2**31, size=rule.warps)
    shifts = (piecewise_affine_shift(wide_size, *warp) for warp in zip(scales.tolist(), seeds.tolist(), strict=True))
    return FaceSampler(size, rule, tuple(shifts), copier)
