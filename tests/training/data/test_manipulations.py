"""Manipulations, and the resampling that all classes share."""

import dataclasses

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from training.data.landmarks import LEFT_EYE, MOUTH, RIGHT_EYE
from training.data.manipulations import KINDS, FaceSampler, Manipulation, flip_region, make_sampler, spread
from training.data.warps import piecewise_affine_shift
from training.recipes import AugmentRule

SIDE, SIZE = 96, 64


@pytest.fixture(name="face", scope="module")
def fixture_face() -> np.ndarray:
    """A noisy picture."""
    return np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)


def place_points(seed: int) -> np.ndarray:
    """Return 68 points with eyes and mouth where a face has them."""
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
    """The attribute lent to imgaug's import is gone."""
    assert not hasattr(np, "sctypes")


@pytest.mark.parametrize("axes", [(0,), (1,), (0, 1)])
def test_flip_touches_its_region_only(face: np.ndarray, points: np.ndarray, axes: tuple[int, ...]) -> None:
    """Pixels far from the mouth stay bit for bit; the mouth changes; the input is not written to."""
    before = face.copy()
    flipped = flip_region(face, points[MOUTH], axes, 0.25)
    assert np.array_equal(face, before)
    assert np.array_equal(flipped[:50], face[:50])
    assert not np.array_equal(flipped[60:84], face[60:84])


def test_flip_of_a_symmetric_face_changes_nothing(points: np.ndarray) -> None:
    """A region that is its own mirror image stays, whatever the mask."""
    symmetric = np.full((SIDE, SIDE, 3), 77, dtype=np.uint8)
    assert np.array_equal(flip_region(symmetric, points[MOUTH], (1,), 0.25), symmetric)


@pytest.mark.parametrize("kind", KINDS)
def test_each_manipulation_changes_the_untouched_crop(
    face: np.ndarray, points: np.ndarray, sampler: FaceSampler, kind: Manipulation
) -> None:
    """With the same draw of the common chain, every manipulation is visible."""
    untouched = sampler.sample(face, points, Manipulation.NONE, np.random.default_rng(5))
    changed = sampler.sample(face, points, kind, np.random.default_rng(5))
    assert changed.shape == untouched.shape == (SIZE, SIZE, 3)
    assert not np.array_equal(changed, untouched)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32), kind=st.sampled_from(KINDS))
def test_every_class_passes_the_same_chain(sampler: FaceSampler, seed: int, kind: Manipulation) -> None:
    """Where a manipulation left the wide crop alone, its crop equals the untouched one bit for bit under one draw.

    A warp that moves nothing gives the untouched crop itself: no class is resampled once more or in another way.
    """
    rng = np.random.default_rng(seed)
    face, points = rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8), place_points(seed)
    draw = sampler.draw(rng, kind, SIDE)
    plain = dataclasses.replace(draw, kind=Manipulation.NONE)
    untouched = sampler.apply(face, points, plain)
    still = dataclasses.replace(sampler, shifts=tuple(np.zeros_like(shift) for shift in sampler.shifts))
    changed = still.apply(face, points, draw)
    if kind is Manipulation.PIECEWISE_AFFINE:
        assert np.array_equal(changed, untouched)
        return
    touched = (sampler.manipulate(face, points, draw) != face).any(axis=2)
    spilled = sampler.resample(np.repeat(touched[..., None] * np.uint8(255), 3, axis=2), plain)
    # A pixel of the crop that draws on no touched pixel; the footprint is at most two wide pixels more.
    reached = np.zeros((SIZE, SIZE), dtype=bool)
    for row in (-1, 0, 1):
        for column in (-1, 0, 1):
            reached |= np.roll(spilled.any(axis=2), (row, column), axis=(0, 1))
    assert np.array_equal(changed[~reached], untouched[~reached])


@given(seed=st.integers(0, 2**32))
def test_the_same_chance_draws_the_same_map_for_every_kind(sampler: FaceSampler, seed: int) -> None:
    """Rotation, zoom, shift and mirror do not depend on the manipulation, and stay within the rule."""
    draws = [sampler.draw(np.random.default_rng(seed), kind, SIDE) for kind in Manipulation]
    for draw in draws[1:]:
        assert np.array_equal(draw.matrix, draws[0].matrix)
        assert (draw.mirrored, draw.eyes, draw.warp) == (draws[0].mirrored, draws[0].eyes, draws[0].warp)
    zoom = np.sqrt(np.linalg.det(draws[0].matrix[:, :2]))
    middle = draws[0].matrix @ ((SIDE - 1) / 2, (SIDE - 1) / 2, 1)
    assert abs(zoom - 1) <= sampler.rule.zoom + 1e-9
    assert np.abs(middle - (SIDE - 1) / 2).max() <= sampler.rule.shift * SIDE + 1e-9


def test_a_matrix_is_spread_over_the_pixels() -> None:
    """Each pixel comes from where the matrix sends it: what another device must compute, too."""
    matrix = np.array([[0.9, -0.1, 3.0], [0.2, 1.1, -4.0]])
    across, down = spread(matrix, 5)
    assert [across[2, 4], down[2, 4]] == pytest.approx(matrix @ (4, 2, 1), rel=1e-6)


def test_the_rule_s_reading_of_a_vertical_mouth_flip(face: np.ndarray, points: np.ndarray) -> None:
    """The paper's mirrors upside down, the release's turns by half; on a left-right symmetric mouth they agree."""
    samplers = [
        make_sampler(SIZE, SIDE, AugmentRule(vertical_mouth=reading, warps=0), seed=3)
        for reading in ("mirror", "half_turn")
    ]
    draw = samplers[0].draw(np.random.default_rng(0), Manipulation.MOUTH_FLIP_VERTICAL, SIDE)
    mirror, half_turn = (sampler.manipulate(face, points, draw) for sampler in samplers)
    assert np.array_equal(mirror, flip_region(face, points[MOUTH], (0,), 0.25))
    assert np.array_equal(half_turn, flip_region(face, points[MOUTH], (0, 1), 0.25))
    assert not np.array_equal(mirror, half_turn)


@pytest.mark.parametrize(("rule", "both"), [("any", True), ("one", False)])
def test_the_rule_s_reading_of_an_eye_flip(
    face: np.ndarray,
    points: np.ndarray,
    rule: str,
    both: bool,  # noqa: FBT001 - a case of the parametrised test
) -> None:
    """The release flips one eye only; the paper's reading flips either or both, and no draw flips none."""
    sampler = make_sampler(SIZE, SIDE, AugmentRule(eyes=rule, warps=0), seed=3)
    seen = set()
    for seed in range(40):
        draw = sampler.draw(np.random.default_rng(seed), Manipulation.EYE_FLIP, SIDE)
        flipped = sampler.manipulate(face, points, draw)
        changed = tuple(
            not np.array_equal(flipped[centre[1], centre[0]], face[centre[1], centre[0]])
            for centre in (points[eye].mean(axis=0).round().astype(int) + 3 for eye in (RIGHT_EYE, LEFT_EYE))
        )
        assert changed == draw.eyes
        seen.add(draw.eyes)
    assert seen == {(True, False), (False, True)} | ({(True, True)} if both else set())


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
