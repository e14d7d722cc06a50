"""Alterations of crops, and the metrics under them."""

import numpy as np
import pytest
import skimage
from PIL import Image

from training.data.shards import Images
from training.evaluation.measures import LogLikelihoods
from training.evaluation.robustness import Condition, draw_rows, equalise_format, evaluate_condition, list_conditions
from training.export.features import Alteration, Crop

CONDITIONS = {f"{condition.family} {condition.setting}": condition for condition in list_conditions()}


@pytest.fixture(scope="module", name="crop")
def fixture_crop() -> Crop:
    """The public-domain astronaut's face, 224 px."""
    return np.asarray(Image.fromarray(skimage.data.astronaut()).crop((150, 40, 300, 220)).resize((224, 224)))


def sharpness(crop: Crop) -> float:
    """Return the mean absolute difference of neighbouring pixels."""
    return float(np.abs(np.diff(crop.astype(int), axis=1)).mean())


@pytest.mark.parametrize("condition", CONDITIONS.values(), ids=CONDITIONS)
def test_alterations_keep_shape_and_repeat(crop: Crop, condition: Condition) -> None:
    """An alteration returns a new crop of the same shape, the same on every call, and does not modify its input."""
    before = crop.copy()
    altered = condition.alter(crop, 3)
    assert altered.shape == crop.shape
    assert altered.dtype == np.uint8
    np.testing.assert_array_equal(altered, condition.alter(crop, 3))
    np.testing.assert_array_equal(crop, before)
    difference = np.abs(altered.astype(int) - crop).mean()
    assert difference == 0 if condition.family == "untouched" else 0 < difference < 12


@pytest.mark.parametrize("family", ["JPEG", "WebP", "blur", "noise", "thumbnail"])
def test_stronger_settings_change_more(crop: Crop, family: str) -> None:
    """Within a family, the conditions are listed from weak to strong."""
    changes = [
        np.abs(condition.alter(crop, 0).astype(int) - crop).mean()
        for condition in CONDITIONS.values()
        if condition.family == family
    ]
    assert changes == sorted(changes)
    assert len(set(changes)) == len(changes)


def test_kernels_differ(crop: Crop) -> None:
    """Each kernel gives another picture; the picture of nearest is the sharpest."""
    resized = [c.alter(crop, 0) for c in CONDITIONS.values() if c.family == "resize"]
    assert len({image.tobytes() for image in resized}) == len(resized) == 4
    nearest, *smooth = map(sharpness, resized)
    assert nearest > max(smooth)


def test_noise_differs_between_faces(crop: Crop) -> None:
    """Different faces have different noise."""
    noise = CONDITIONS["noise 5 grey levels"]
    assert not np.array_equal(noise.alter(crop, 0), noise.alter(crop, 1))


def test_double_compression_is_not_single_compression(crop: Crop) -> None:
    """The second block grid is shifted, and the resulting picture is not."""
    twice, once = (
        CONDITIONS[name].alter(crop, 0).astype(int) for name in ("double JPEG 90 then 60", "JPEG quality 60")
    )
    assert np.abs(twice - once).mean() > 0.5
    assert np.abs(twice - crop).mean() < 1.5 * np.abs(once - crop).mean()


def test_equalised_crops_lose_detail_beyond_112_pixels() -> None:
    """A one-pixel chequerboard becomes grey; a crop of one colour does not change."""
    board = np.repeat((np.indices((224, 224)).sum(axis=0) % 2 * 255).astype(np.uint8)[..., None], 3, axis=2)
    assert equalise_format(board, 0)[8:-8, 8:-8].std() < 5
    assert np.abs(equalise_format(np.full_like(board, 90), 0).astype(int) - 90).max() <= 2


def test_false_alarms_compare_altered_photographs_with_the_untouched_calibration() -> None:
    """A reduction of all values by 30 keeps the AUC and moves every photograph below the calibration."""
    rng = np.random.default_rng(0)
    real, generated = (rng.integers(low, low + 20, (40, 1, 1, 1)).astype(np.uint8) for low in (120, 90))

    def score(crops: Images, alter: Alteration) -> LogLikelihoods:
        return np.array([alter(crop, row).mean() for row, crop in enumerate(crops[:])])

    def darken(crop: Crop, _: int) -> Crop:
        return crop - 30

    calibration = np.arange(115.0, 145.0)
    groups = np.arange(40).astype(str)
    kept = evaluate_condition(CONDITIONS["untouched "], score, (real, groups), {"g": generated}, calibration)
    dark = evaluate_condition(Condition("dark", "30", darken), score, (real, groups), {"g": generated}, calibration)
    assert kept.auc == dark.auc == {"g": 1.0}
    assert kept.false_alarms is not None
    assert dark.false_alarms is not None
    assert (kept.false_alarms.value, dark.false_alarms.value) == (0, 1)


def test_rows_are_drawn_once_each() -> None:
    """At most 500 rows are drawn, each once, ascending; of fewer rows all are drawn."""
    rows = draw_rows(2000)
    assert len(set(rows.tolist())) == 500
    assert (np.diff(rows) > 0).all()
    np.testing.assert_array_equal(draw_rows(7), np.arange(7))
