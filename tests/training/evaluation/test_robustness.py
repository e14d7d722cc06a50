"""Processed copies of faces, and their sizes and strata."""

import io

import numpy as np
import pytest
import skimage
from PIL import Image

from ingest.image_metadata import read_image_metadata
from ingest.probe import probe_image
from ingest.spec import PreprocessSpec
from scorer.strata import Stratum
from training.evaluation.robustness import EQUALISED, Condition, list_conditions
from training.export.features import Crop

CONDITIONS = {condition.name: condition for condition in list_conditions()}
SPEC = PreprocessSpec()
SIDES = np.array([300.0, 200.0, 100.0, 70.0])


@pytest.fixture(scope="module")
def wide() -> Crop:
    """The public-domain astronaut's face, 320 px."""
    return np.asarray(Image.fromarray(skimage.data.astronaut()).crop((150, 40, 300, 190)).resize((320, 320)))


def power_beyond(crop: Crop, cycles: int) -> float:
    """Return the power of a crop beyond some cycles a crop, per pixel, without its mean."""
    spectrum = np.abs(np.fft.rfft2(crop.mean(axis=2) - crop.mean())) ** 2
    radius = np.hypot(np.fft.fftfreq(224)[:, None], np.fft.rfftfreq(224)) * 224
    return float(spectrum[radius > cycles].sum() / 224**4)


@pytest.mark.parametrize("condition", CONDITIONS.values(), ids=CONDITIONS)
def test_copies_are_crops_as_served_and_repeat(wide: Crop, condition: Condition) -> None:
    """A copy has the served size, repeats, and is like its unmodified original."""
    before, alter = wide.copy(), condition.make_alteration(SIDES, SPEC)
    copy = alter(wide, 1)
    assert (copy.shape, copy.dtype) == ((224, 224, 3), np.uint8)
    np.testing.assert_array_equal(copy, alter(wide, 1))
    np.testing.assert_array_equal(wide, before)
    served = np.asarray(Image.fromarray(wide).resize((224, 224), Image.Resampling.BILINEAR))
    assert 0 < np.abs(copy.astype(int) - served).mean() < 12


def test_copies_differ_by_condition(wide: Crop) -> None:
    """Each condition gives another picture."""
    assert len({each.make_alteration(SIDES, SPEC)(wide, 0).tobytes() for each in CONDITIONS.values()}) == len(
        CONDITIONS
    )


def test_one_format_makes_large_faces_alike(wide: Crop) -> None:
    """Faces of 300 and 200 px become 150 px; a smaller one is not enlarged."""
    alter = CONDITIONS[EQUALISED].make_alteration(SIDES, SPEC)
    noise = np.random.default_rng(0).integers(0, 256, wide.shape).astype(np.uint8)
    detail = [power_beyond(alter(noise, row), 70) for row in range(3)]
    assert detail[0] == pytest.approx(detail[1], rel=0.1)
    assert detail[2] < 0.5 * detail[1]
    np.testing.assert_array_equal(CONDITIONS[EQUALISED].measure_faces(SIDES), [150, 150, 100, 70])


def test_copies_have_the_strata_of_their_files(wide: Crop) -> None:
    """Strata follow from the copy's size and the quality that the scorer reads."""
    strata = {name: condition.find_strata(SIDES) for name, condition in CONDITIONS.items()}
    assert strata[EQUALISED] == [Stratum.HIGH_QUALITY] * 2 + [Stratum.SMALL_HIGH_QUALITY] * 2
    assert strata["JPEG 75"][0] is strata["JPEG 50"][0] is Stratum.LOW_QUALITY
    assert strata["half size"] == [Stratum.SMALL_HIGH_QUALITY] * 4
    assert strata["screenshot"] == [Stratum.SMALL_NO_QUALITY] * 4  # 112.5 px
    for quality in (90, 75, 50):
        file = io.BytesIO()
        Image.fromarray(wide).save(file, "JPEG", quality=quality)
        data = file.getvalue()
        assert read_image_metadata(data, probe_image(data)).jpeg_quality == quality


def test_faces_that_become_too_small_are_left_out() -> None:
    """Only half size leaves 50 px, which is not scored, of 100 px."""
    assert CONDITIONS["half size"].find_scored(SIDES).tolist() == [True, True, False, False]
    assert CONDITIONS["screenshot"].find_scored(SIDES).tolist() == [True, True, True, False]
    assert CONDITIONS["JPEG 50"].find_scored(SIDES).all()
