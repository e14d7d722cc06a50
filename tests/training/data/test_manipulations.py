"""Manipulations, and the resampling of all classes."""

import dataclasses
import warnings

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from training.data.landmarks import LEFT_EYE, MOUTH, RIGHT_EYE
from training.data.manipulations import JITTER_DEG, JITTER_PX, FaceSampler, flip_region, make_sampler, map_pixels
from training.data.shards import WIDE_SIZE
from training.data.warps import GRID, PiecewiseAffine, identity_map, piecewise_affine_shift
from training.recipes import AugmentRule, CopierRule, Manipulation, starter

SIDE, SIZE = 96, 64
KINDS = AugmentRule().kinds
EXTENTS = {name: getattr(starter().augment, name) for name in ("rotation_deg", "zoom", "shift", "mirror")}


@pytest.fixture(scope="module")
def face() -> np.ndarray:
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


@pytest.fixture(scope="module")
def points() -> np.ndarray:
    """Points of a face."""
    return place_points(1)


@pytest.fixture(scope="module")
def sampler() -> FaceSampler:
    """A sampler for small pictures."""
    return make_sampler(SIZE, SIDE, AugmentRule(warps=6, **EXTENTS), seed=3)


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
    """Outside the manipulated region, and with a warp of zero, a crop equals the untouched one bit for bit."""
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
    # Widened: a crop's pixel reads up to four pixels of the wide crop in each direction, some with a negative weight.
    widened = cv2.dilate(affected.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    assert np.array_equal(changed[~widened], untouched[~widened])


@given(seed=st.integers(0, 2**32))
def test_the_resampling_does_not_depend_on_the_kind(sampler: FaceSampler, seed: int) -> None:
    """Rotation, zoom, shift and mirroring are the same for each kind, within the rule."""
    first, *others = (sampler.draw(np.random.default_rng(seed), kind, SIDE) for kind in Manipulation)
    for augmentation in others:
        assert np.array_equal(augmentation.matrix, first.matrix)
        assert (augmentation.mirrored, augmentation.eyes, augmentation.warp) == (first.mirrored, first.eyes, first.warp)
    zoom = np.sqrt(np.linalg.det(first.matrix[:, :2]))
    middle = first.matrix @ ((SIDE - 1) / 2, (SIDE - 1) / 2, 1)
    angle = np.rad2deg(np.arctan2(first.matrix[1, 0], first.matrix[0, 0]))
    assert abs(zoom - 1) <= sampler.rule.zoom + 1e-9
    assert abs(angle) <= JITTER_DEG + sampler.rule.rotation_deg + 1e-9
    assert np.abs(middle - (SIDE - 1) / 2).max() <= JITTER_PX + sampler.rule.shift * SIDE + 1e-9


@given(seed=st.integers(0, 2**32))
def test_without_augmentation_pixels_hardly_move(seed: int) -> None:
    """Without augmentation beyond the paper no pixel moves by more than 2 % of the side."""
    plain = FaceSampler(SIZE, AugmentRule(), ())
    augmentation = plain.draw(np.random.default_rng(seed), Manipulation.NONE, SIDE)
    moved = np.stack(plain.build_map(augmentation, SIDE), axis=-1) - identity_map(SIDE)
    assert np.hypot(*moved.T).max() < 0.02 * SIDE
    assert not augmentation.mirrored


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
    """The release flips one eye; the paper one or both."""
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


def measure_power(crops: list[np.ndarray], low: float, high: float) -> np.ndarray:
    """Return the mean power of each crop's luminance at `low` to `high` cycles a crop."""
    pixels = np.stack(crops).astype(float).mean(axis=3)
    side = pixels.shape[1]
    window = np.outer(np.hanning(side), np.hanning(side))
    spectra = np.abs(np.fft.rfft2((pixels - pixels.mean(axis=(1, 2), keepdims=True)) * window)) ** 2
    cycles = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)) * side
    return spectra[:, (cycles >= low) & (cycles < high)].mean(axis=1)


@pytest.mark.slow
@pytest.mark.parametrize("extents", [{}, EXTENTS], ids=["paper", "starter"])
def test_resampling_alone_does_not_separate_the_classes(extents: dict[str, float]) -> None:
    """On white noise, untouched and warped crops have the same power at the highest frequencies within 10 %.

    Without the common rotation and shift, untouched crops have 1.15 and 1.3 times the power of warped ones.
    """
    rng = np.random.default_rng(7)
    points = np.full((68, 2), WIDE_SIZE / 2, dtype=np.float32)
    sampler = make_sampler(224, WIDE_SIZE, AugmentRule(warps=6, **extents), seed=3)
    noise = rng.normal(128, 40, (24, WIDE_SIZE, WIDE_SIZE, 3)).clip(0, 255).astype(np.uint8)
    for low, high in ((84, 100), (100, 112)):
        untouched, warped = (
            measure_power([sampler.sample(face, points, kind, rng) for face in noise], low, high)
            for kind in (Manipulation.NONE, Manipulation.PIECEWISE_AFFINE)
        )
        assert warped.mean() == pytest.approx(untouched.mean(), rel=0.1)


def test_probabilities_are_those_of_the_rule(sampler: FaceSampler) -> None:
    """Half of the faces are manipulated, and all kinds are equally frequent."""
    rng = np.random.default_rng(11)
    kinds = [sampler.draw_kind(rng) for _ in range(4000)]
    for kind in KINDS:
        assert kinds.count(kind) / len(kinds) == pytest.approx(1 / 8, abs=0.02)


def copy_unchanged(face: np.ndarray, _: np.random.Generator) -> np.ndarray:
    """A copier that changes nothing."""
    return face


@pytest.mark.parametrize("processing", [False, True])
@given(seed=st.integers(0, 2**32))
def test_copies_pass_the_chain_of_untouched_faces(processing: bool, seed: int) -> None:  # noqa: FBT001 - a case
    """A copy that changes nothing has the bytes of the untouched crop, also processed."""
    rng = np.random.default_rng(seed)
    face, points = rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8), place_points(1)
    rule = AugmentRule(copiers=CopierRule(), processing=processing, warps=0, **EXTENTS)
    sampler = make_sampler(SIZE, SIDE, rule, 3, copy_unchanged)
    copied, untouched = (
        sampler.sample(face, points, kind, np.random.default_rng(seed))
        for kind in (Manipulation.COPY, Manipulation.NONE)
    )
    assert np.array_equal(copied, untouched)
    other = dataclasses.replace(sampler, copier=lambda face, _: 255 - face)
    assert not np.array_equal(other.sample(face, points, Manipulation.COPY, np.random.default_rng(seed)), untouched)


def test_copies_have_their_share_and_need_a_copier(face: np.ndarray, points: np.ndarray) -> None:
    """Half of the manipulated faces are copies, which need a copier."""
    sampler = make_sampler(SIZE, SIDE, AugmentRule(copiers=CopierRule(share=0.5), warps=0), 3)
    rng = np.random.default_rng(11)
    kinds = [sampler.draw_kind(rng) for _ in range(4000)]
    assert kinds.count(Manipulation.COPY) / len(kinds) == pytest.approx(1 / 4, abs=0.02)
    for kind in KINDS:
        assert kinds.count(kind) / len(kinds) == pytest.approx(1 / 16, abs=0.02)
    with pytest.raises(ValueError, match="no copier"):
        sampler.sample(face, points, Manipulation.COPY, rng)


def test_the_rule_decides_the_kinds(sampler: FaceSampler) -> None:
    """Only the kinds of the rule are drawn."""
    only = dataclasses.replace(sampler, rule=AugmentRule(kinds=(Manipulation.EYE_FLIP,)))
    rng = np.random.default_rng(11)
    assert {only.draw_kind(rng) for _ in range(40)} == {Manipulation.NONE, Manipulation.EYE_FLIP}


def test_warps_are_reproducible_and_continuous() -> None:
    """The same seed gives the same warp, and neighbouring offsets differ by less than a pixel."""
    shift = piecewise_affine_shift(SIDE, 0.03, 9)
    assert np.array_equal(shift, piecewise_affine_shift(SIDE, 0.03, 9))
    assert 0.5 < np.abs(shift).max() < SIDE / 4
    assert np.abs(np.diff(shift, axis=0)).max() < 1


@pytest.mark.slow
def test_the_scale_of_a_warp_is_a_share_of_the_crop() -> None:
    """Grid points move by `scale` of the side, and the middle as with imgaug alone."""
    scale, count = 0.03, 8
    points = np.linspace(0, SIDE - 1, GRID).round().astype(int)
    middle = slice(SIDE // 4, SIDE - SIDE // 4)
    shifts = np.stack([piecewise_affine_shift(SIDE, scale, seed) for seed in range(count)])
    assert shifts[:, points][:, :, points].std() == pytest.approx(scale * SIDE, rel=0.08)
    coordinates = identity_map(SIDE) / SIDE
    alone = [PiecewiseAffine(scale, GRID, GRID, 1, mode="edge", seed=seed) for seed in range(count)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # imgaug uses a name that scikit-image changed
        moved = np.stack([(warp.augment_image(coordinates) - coordinates) * SIDE for warp in alone])
    assert shifts[:, middle, middle].std() == pytest.approx(moved[:, middle, middle].std(), rel=0.1)
