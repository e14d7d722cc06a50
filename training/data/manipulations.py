"""Artificial manipulations of photographic faces (section III-B), and the one resampling chain of all faces.

A manipulated face differs from an untouched one only in the manipulation: both are cut from the
same wide crop and pass one bilinear resampling and one area reduction. In the authors' release
manipulated faces alone were resampled, so that resampling alone separated the classes.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from training.data.landmarks import LEFT_EYE, MOUTH, RIGHT_EYE
from training.data.warps import Map, identity_map, piecewise_affine_shift
from training.recipes import AugmentRule

Face = NDArray[np.uint8]
Points = NDArray[np.float32]


class Manipulation(StrEnum):
    """What was done to a face."""

    NONE = "none"
    EYE_FLIP = "eye_flip"
    MOUTH_FLIP_HORIZONTAL = "mouth_flip_horizontal"
    MOUTH_FLIP_VERTICAL = "mouth_flip_vertical"
    PIECEWISE_AFFINE = "piecewise_affine"


KINDS = tuple(kind for kind in Manipulation if kind is not Manipulation.NONE)


def flip_region(face: Face, points: Points, axis: int, margin: float) -> Face:
    """Mirror the region of `points` in place along `axis` (0 vertical, 1 horizontal) and blend it in softly.

    The region is the points' bounding box widened by `margin` of its size; the mirror line runs
    through whole or half pixels, so that no pixel is interpolated. The blend is linear, by a mask that
    is the points' hull, widened and blurred (section III-B).
    """
    side = face.shape[0]
    low, high = points.min(axis=0), points.max(axis=0)
    grow = (high - low) * margin + 2
    left, top = np.clip(np.floor(low - grow).astype(int), 0, side - 1)
    right, bottom = np.clip(np.ceil(high + grow).astype(int), 1, side)
    if right - left < 4 or bottom - top < 4:  # noqa: PLR2004 - nothing to mirror
        return face
    region = face[top:bottom, left:right].astype(np.float32)
    mirrored = region[::-1] if axis == 0 else region[:, ::-1]
    hull = cv2.convexHull((points - (left, top)).round().astype(np.int32))
    mask: NDArray[Any] = np.zeros(region.shape[:2], dtype=np.float32)
    cv2.fillConvexPoly(mask, hull, 1.0)
    mask = np.maximum(mask, mask[::-1] if axis == 0 else mask[:, ::-1])
    reach = max(1, round(min(region.shape[:2]) * margin / 2))
    mask = cv2.dilate(mask, np.ones((reach, reach), dtype=np.uint8))
    # The blur must reach zero at the region's edge, or the edge itself would be the cue.
    mask = cv2.GaussianBlur(cv2.copyMakeBorder(mask, 1, 1, 1, 1, cv2.BORDER_CONSTANT), (0, 0), reach / 2)[1:-1, 1:-1]
    blended = face.copy()
    weight = mask[..., None]
    blended[top:bottom, left:right] = np.rint(region * (1 - weight) + mirrored * weight).astype(np.uint8)
    return blended


def resample(image: NDArray[Any], mapping: Map, border: int) -> NDArray[Any]:
    """Return `image` taken bilinearly at `mapping`, [H, W, 2] as (x, y) pixels."""
    across, down = (np.ascontiguousarray(mapping[..., axis], dtype=np.float32) for axis in (0, 1))
    return cv2.remap(image, across, down, cv2.INTER_LINEAR, borderMode=border)


def flip_eyes(face: Face, points: Points, rng: np.random.Generator) -> Face:
    """Mirror the left eye, the right eye or both, each about its own vertical axis."""
    for eye in ((RIGHT_EYE,), (LEFT_EYE,), (RIGHT_EYE, LEFT_EYE))[rng.integers(3)]:
        face = flip_region(face, points[eye], axis=1, margin=0.5)
    return face


@dataclass(frozen=True, slots=True, eq=False)
class FaceSampler:
    """Draws training faces; the piecewise affine warps are made once, as they cost more than a training step.

    Attributes:
        size: side of the crops that come out, in pixels.
        rule: how faces are drawn.
        shifts: piecewise affine warps over the wide crop.
    """

    size: int
    rule: AugmentRule
    shifts: tuple[Map, ...]

    def draw_map(self, side: int, rng: np.random.Generator) -> Map:
        """Return the similarity that every face passes: rotation, zoom, shift by fractions of a pixel."""
        angle = np.deg2rad(rng.uniform(-self.rule.rotation_deg, self.rule.rotation_deg))
        zoom = 1 + rng.uniform(-self.rule.zoom, self.rule.zoom)
        turn = zoom * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        shift = rng.uniform(-self.rule.shift, self.rule.shift, 2) * side
        centre = (side - 1) / 2
        mapped: Map = ((identity_map(side) - centre) @ turn.T + centre + shift).astype(np.float32)
        return mapped

    def sample(self, face: Face, points: Points, kind: Manipulation, rng: np.random.Generator) -> Face:
        """Return one [size, size, 3] crop of the wide `face` with the manipulation `kind`."""
        if kind is Manipulation.EYE_FLIP:
            face = flip_eyes(face, points, rng)
        elif kind is Manipulation.MOUTH_FLIP_HORIZONTAL:
            face = flip_region(face, points[MOUTH], axis=1, margin=0.25)
        elif kind is Manipulation.MOUTH_FLIP_VERTICAL:
            face = flip_region(face, points[MOUTH], axis=0, margin=0.25)
        mapping = self.draw_map(face.shape[0], rng)
        if kind is Manipulation.PIECEWISE_AFFINE:
            # Composed into one map: two resamplings would blur this class alone.
            shift = self.shifts[rng.integers(len(self.shifts))]
            mapping = mapping + resample(shift, mapping, cv2.BORDER_REPLICATE)
        turned = resample(face, mapping, cv2.BORDER_REFLECT_101)
        small = cv2.resize(turned, (self.size, self.size), interpolation=cv2.INTER_AREA)
        return np.ascontiguousarray(small[:, ::-1] if rng.random() < 0.5 else small)  # noqa: PLR2004 - a fair coin

    def draw_kind(self, rng: np.random.Generator) -> Manipulation:
        """Return a manipulation with the rule's odds, each kind alike."""
        if rng.random() >= self.rule.manipulated_share:
            return Manipulation.NONE
        return KINDS[rng.integers(len(KINDS))]


def make_sampler(size: int, wide_size: int, rule: AugmentRule, seed: int) -> FaceSampler:
    """Build a sampler with `rule.warps` piecewise affine warps over crops of `wide_size` pixels."""
    rng = np.random.default_rng(seed)
    low, high = rule.affine_scale
    scales = rng.uniform(low, high, rule.warps)
    shifts = tuple(piecewise_affine_shift(wide_size, float(scale), seed + index) for index, scale in enumerate(scales))
    return FaceSampler(size, rule, shifts)
