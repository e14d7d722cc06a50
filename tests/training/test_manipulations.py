"""Manipulations, and the resampling that all classes share."""

import numpy as np
import pytest

from training.data.landmarks import MOUTH
from training.data.manipulations import KINDS, FaceSampler, Manipulation, flip_region, make_sampler
from training.data.warps import piecewise_affine_shift
from training.recipes import AugmentRule

SIDE, SIZE = 96, 64


@pytest.fixture(name="face")
def fixture_face() -> np.ndarray:
    """A noisy picture."""
    return np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)


@pytest.fixture(name="points")
def fixture_points() -> np.ndarray:
    """68 points with eyes and mouth where a face has them."""
    rng = np.random.default_rng(1)
    points = rng.uniform(10, 86, (68, 2))
    points[36:42] = np.array([30, 36]) + rng.uniform(-8, 8, (6, 2))
    points[42:48] = np.array([66, 36]) + rng.uniform(-8, 8, (6, 2))
    points[48:68] = np.array([48, 72]) + rng.uniform(-1, 1, (20, 2)) * (16, 8)
    return points.astype(np.float32)


@pytest.fixture(name="sampler", scope="module")
def fixture_sampler() -> FaceSampler:
    """A sampler for small pictures."""
    return make_sampler(SIZE, SIDE, AugmentRule(warps=6), seed=3)


def test_imgaug_leaves_numpy_as_it_was() -> None:
    """The attribute lent to imgaug's import is gone."""
    assert not hasattr(np, "sctypes")


@pytest.mark.parametrize("axis", [0, 1])
def test_flip_touches_its_region_only(face: np.ndarray, points: np.ndarray, axis: int) -> None:
    """Pixels far from the mouth stay bit for bit; the mouth changes; the input is not written to."""
    before = face.copy()
    flipped = flip_region(face, points[MOUTH], axis, 0.25)
    assert np.array_equal(face, before)
    assert np.array_equal(flipped[:50], face[:50])
    assert not np.array_equal(flipped[60:84], face[60:84])


def test_flip_of_a_symmetric_face_changes_nothing(points: np.ndarray) -> None:
    """A region that is its own mirror image stays, whatever the mask."""
    symmetric = np.full((SIDE, SIDE, 3), 77, dtype=np.uint8)
    assert np.array_equal(flip_region(symmetric, points[MOUTH], 1, 0.25), symmetric)


@pytest.mark.parametrize("kind", KINDS)
def test_each_manipulation_changes_the_untouched_crop(
    face: np.ndarray, points: np.ndarray, sampler: FaceSampler, kind: Manipulation
) -> None:
    """With the same draw of the common chain, every manipulation is visible."""
    untouched = sampler.sample(face, points, Manipulation.NONE, np.random.default_rng(5))
    changed = sampler.sample(face, points, kind, np.random.default_rng(5))
    assert changed.shape == untouched.shape == (SIZE, SIZE, 3)
    assert not np.array_equal(changed, untouched)


def test_resampling_alone_does_not_tell_the_classes_apart(sampler: FaceSampler) -> None:
    """On pure noise, the sharpness of untouched and warped crops has the same distribution within a few percent."""
    rng = np.random.default_rng(7)
    points = np.full((68, 2), 48, dtype=np.float32)

    def sharpness(kind: Manipulation) -> float:
        crops = [
            sampler.sample(rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8), points, kind, rng).astype(float)
            for _ in range(40)
        ]
        return float(np.mean([np.abs(np.diff(crop, axis=1)).mean() for crop in crops]))

    assert sharpness(Manipulation.PIECEWISE_AFFINE) == pytest.approx(sharpness(Manipulation.NONE), rel=0.05)


def test_odds_are_the_rule_s(sampler: FaceSampler) -> None:
    """Half of the faces are manipulated, each kind alike."""
    rng = np.random.default_rng(11)
    kinds = [sampler.draw_kind(rng) for _ in range(4000)]
    for kind in KINDS:
        assert kinds.count(kind) / len(kinds) == pytest.approx(1 / 8, abs=0.02)


def test_warps_are_reproducible_and_continuous() -> None:
    """The same seed gives the same warp; neighbours move together, so nothing tears."""
    shift = piecewise_affine_shift(SIDE, 0.03, 9)
    assert np.array_equal(shift, piecewise_affine_shift(SIDE, 0.03, 9))
    assert 0.5 < np.abs(shift).max() < SIDE / 4
    assert np.abs(np.diff(shift, axis=0)).max() < 1
