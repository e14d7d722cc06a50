"""Manipulations, and the resampling of all classes."""

import dataclasses

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from training.data.landmarks import LEFT_EYE, MOUTH, RIGHT_EYE
from training.data.manipulations import KINDS, FaceSampler, Manipulation, flip_region, make_sampler, map_pixels
from training.data.warps import piecewise_affine_shift
from training.recipes import AugmentRule

SIDE, SIZE = 96, 64


@pytest.fixture(name="face", scope="module")
def fixture_face() -> np.ndarray:
    """A noisy picture."""
    return np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)


def place_points(seed: int) -> np.ndarray:
    """Return 68 points with eyes and mouth at realistic positions."""
    rng = np.random.default_rng(seed)
    points = rng.uniform(10, 86, (68, 2))
    points[36:42] = np.array([30, 36]) + rng.uniform(-8, 8, (6, 2))
    points[42:48] = np.array([66, 36]) + rng.uniform(-8, 8, (6, 2))
    points[48:68] = np.array([48, 72]) + rng.uniform(-1, 1, (20, 2)) * (16, 8)
    return points.astype(np.float32)


@pytest.fixture(name="points", scope="module")
def fixture_points() -> np.ndarray:
    """Points of a face."""
    return place_points(1)


@pytest.fixture(name="sampler", scope="module")
def fixture_sampler() -> FaceSampler:
    """A sampler for small pictures."""
    return make_sampler(SIZE, SIDE, AugmentRule(warps=6), seed=3)


def test_imgaug_leaves_numpy_as_it_was() -> None:
    """The attribute that imgaug's import needs is removed afterwards."""
    assert not hasattr(np, "sctypes")


@pytest.mark.parametrize("axes", [(0,), (1,), (0, 1)])
def test_flip_touches_its_region_only(face: np.ndarray, points: np.ndarray, axes: tuple[int, ...]) -> None:
    """Pixels far from the mouth do not change, the mouth changes, and the input is not modified."""
    before = face.copy()
    flipped = flip_region(face, points[MOUTH], axes, 0.25)
    assert np.array_equal(face, before)
    assert np.array_equal(flipped[:50], face[:50])
    assert not np.array_equal(flipped[60:84], face[60:84])


def test_flip_of_a_symmetric_face_changes_nothing(points: np.ndarray) -> None:
    """A region that equals its mirror image does not change, for any mask."""
    symmetric = np.full((SIDE, SIDE, 3), 77, dtype=np.uint8)
    assert np.array_equal(flip_region(symmetric, points[MOUTH], (1,), 0.25), symmetric)


@pytest.mark.parametrize("kind", KINDS)
def test_each_manipulation_changes_the_untouched_crop(
    face: np.ndarray, points: np.ndarray, sampler: FaceSampler, kind: Manipulation
) -> None:
    """With the same random resampling, every manipulation changes the crop."""
    untouched = sampler.sample(face, points, Manipulation.NONE, np.random.default_rng(5))
    changed = sampler.sample(face, points, kind, np.random.default_rng(5))
    assert changed.shape == untouched.shape == (SIZE, SIZE, 3)
    assert not np.array_equal(changed, untouched)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32), kind=st.sampled_from(KINDS))
def test_every_class_is_resampled_in_the_same_way(sampler: FaceSampler, seed: int, kind: Manipulation) -> None:
    """Outside the manipulated region, a crop equals the untouched one bit for bit under the same augmentation.

    A warp with zero offsets gives exactly the untouched crop: no class is resampled more often or in another way.
    """
    rng = np.random.default_rng(seed)
    face, points = rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8), place_points(seed)
    augmentation = sampler.draw(rng, kind, SIDE)
    plain = dataclasses.replace(augmentation, kind=Manipulation.NONE)
    untouched = sampler.apply(face, points, plain)
    still = dataclasses.replace(sampler, shifts=tuple(np.zeros_like(shift) for shift in sampler.shifts))
    changed = still.apply(face, points, augmentation)
    if kind is Manipulation.PIECEWISE_AFFINE:
        assert np.array_equal(changed, untouched)
        return
    changed_wide = (sampler.manipulate(face, points, augmentation) != face).any(axis=2)
    affected = sampler.resample(np.repeat(changed_wide[..., None] * np.uint8(255), 3, axis=2), plain).any(axis=2)
    # Widened by one pixel: a crop's pixel reads up to two more pixels of the wide crop.
    widened = np.zeros((SIZE, SIZE), dtype=bool)
    for row in (-1, 0, 1):
        for column in (-1, 0, 1):
            widened |= np.roll(affected, (row, column), axis=(0, 1))
    assert np.array_equal(changed[~widened], untouched[~widened])


@given(seed=st.integers(0, 2**32))
def test_the_resampling_does_not_depend_on_the_kind(sampler: FaceSampler, seed: int) -> None:
    """Rotation, zoom, shift and mirroring do not depend on the manipulation, and are within the rule's limits."""
    first, *others = (sampler.draw(np.random.default_rng(seed), kind, SIDE) for kind in Manipulation)
    for augmentation in others:
        assert np.array_equal(augmentation.matrix, first.matrix)
        assert (augmentation.mirrored, augmentation.eyes, augmentation.warp) == (
            first.mirrored,
            first.eyes,
            first.warp,
        )
    zoom = np.sqrt(np.linalg.det(first.matrix[:, :2]))
    middle = first.matrix @ ((SIDE - 1) / 2, (SIDE - 1) / 2, 1)
    assert abs(zoom - 1) <= sampler.rule.zoom + 1e-9
    assert np.abs(middle - (SIDE - 1) / 2).max() <= sampler.rule.shift * SIDE + 1e-9


def test_a_matrix_maps_each_pixel() -> None:
    """The coordinates of each pixel are the product of the matrix and the pixel."""
    matrix = np.array([[0.9, -0.1, 3.0], [0.2, 1.1, -4.0]])
    across, down = map_pixels(matrix, 5)
    assert [across[2, 4], down[2, 4]] == pytest.approx(matrix @ (4, 2, 1), rel=1e-6)


def test_the_rule_decides_the_vertical_mouth_flip(face: np.ndarray, points: np.ndarray) -> None:
    """The paper's flip mirrors vertically, the release's rotates by 180 degrees."""
    samplers = [
        make_sampler(SIZE, SIDE, AugmentRule(vertical_mouth=reading, warps=0), seed=3)
        for reading in ("mirror", "half_turn")
    ]
    augmentation = samplers[0].draw(np.random.default_rng(0), Manipulation.MOUTH_FLIP_VERTICAL, SIDE)
    mirror, half_turn = (sampler.manipulate(face, points, augmentation) for sampler in samplers)
    assert np.array_equal(mirror, flip_region(face, points[MOUTH], (0,), 0.25))
    assert np.array_equal(half_turn, flip_region(face, points[MOUTH], (0, 1), 0.25))
    assert not np.array_equal(mirror, half_turn)


@pytest.mark.parametrize(("rule", "both"), [("any", True), ("one", False)])
def test_the_rule_decides_the_eye_flip(
    face: np.ndarray,
    points: np.ndarray,
    rule: str,
    both: bool,  # noqa: FBT001 - a case of the parametrised test
) -> None:
    """The release flips one eye only; the paper flips one or both; at least one eye is always flipped."""
    sampler = make_sampler(SIZE, SIDE, AugmentRule(eyes=rule, warps=0), seed=3)
    seen = set()
    for seed in range(40):
        augmentation = sampler.draw(np.random.default_rng(seed), Manipulation.EYE_FLIP, SIDE)
        flipped = sampler.manipulate(face, points, augmentation)
        changed = tuple(
            not np.array_equal(flipped[centre[1], centre[0]], face[centre[1], centre[0]])
            for centre in (points[eye].mean(axis=0).round().astype(int) + 3 for eye in (RIGHT_EYE, LEFT_EYE))
        )
        assert changed == augmentation.eyes
        seen.add(augmentation.eyes)
    assert seen == {(True, False), (False, True)} | ({(True, True)} if both else set())


def test_resampling_alone_does_not_separate_the_classes(sampler: FaceSampler) -> None:
    """On noise, untouched and warped crops have the same mean sharpness within a few percent."""
    rng = np.random.default_rng(7)
    points = np.full((68, 2), 48, dtype=np.float32)

    def sharpness(kind: Manipulation) -> float:
        crops = [
            sampler.sample(rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8), points, kind, rng).astype(float)
            for _ in range(40)
        ]
        return float(np.mean([np.abs(np.diff(crop, axis=1)).mean() for crop in crops]))

    assert sharpness(Manipulation.PIECEWISE_AFFINE) == pytest.approx(sharpness(Manipulation.NONE), rel=0.05)


def test_probabilities_are_those_of_the_rule(sampler: FaceSampler) -> None:
    """Half of the faces are manipulated, and all kinds are equally frequent."""
    rng = np.random.default_rng(11)
    kinds = [sampler.draw_kind(rng) for _ in range(4000)]
    for kind in KINDS:
        assert kinds.count(kind) / len(kinds) == pytest.approx(1 / 8, abs=0.02)


def test_warps_are_reproducible_and_continuous() -> None:
    """The same seed gives the same warp, and neighbouring offsets differ by less than a pixel."""
    shift = piecewise_affine_shift(SIDE, 0.03, 9)
    assert np.array_equal(shift, piecewise_affine_shift(SIDE, 0.03, 9))
    assert 0.5 < np.abs(shift).max() < SIDE / 4
    assert np.abs(np.diff(shift, axis=0)).max() < 1
