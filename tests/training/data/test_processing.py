"""Random processing: its sizes, its choices, and that it keeps the face."""

import numpy as np
import pytest
import skimage
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from training.data.copies import rescale
from training.data.processing import WORKING_SCALES, edit, process, reduce_randomly

SIDE, SIZE, DRAWS = 320, 224, 400


@pytest.fixture(scope="module")
def face() -> np.ndarray:
    """A portrait in the public domain, of the size of a wide crop."""
    return np.asarray(Image.fromarray(skimage.data.astronaut()[:256, 96:352]).resize((SIDE, SIDE)))


@given(seed=st.integers(0, 2**32), side=st.integers(64, SIDE), edited=st.booleans())
def test_the_same_generator_gives_the_same_crop(seed: int, side: int, *, edited: bool) -> None:
    """The result has the served size and follows from the generator; nothing is enlarged."""
    crop = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    once, again = (process(crop, SIZE, np.random.default_rng(seed), edited=edited) for _ in range(2))
    assert once.shape == (SIZE, SIZE, 3)
    assert once.dtype == np.uint8
    assert np.array_equal(once, again)
    reduced = reduce_randomly(crop, np.random.default_rng(seed))
    assert round(side * WORKING_SCALES[0]) <= len(reduced) <= side


def test_the_face_remains(face: np.ndarray) -> None:
    """Every processed crop correlates with the served one; some are exactly as served."""
    served = rescale(face, SIZE, Image.Resampling.BILINEAR)
    crops = [process(face, SIZE, np.random.default_rng(seed), edited=True) for seed in range(60)]
    assert min(np.corrcoef(crop.ravel(), served.ravel())[0, 1] for crop in crops) > 0.97
    assert any(np.array_equal(crop, served) for crop in crops)


def test_a_quarter_of_the_crops_is_edited(face: np.ndarray) -> None:
    """An edit is drawn for 24 % of the crops and keeps their size."""
    small = rescale(face, 64, Image.Resampling.BOX)
    results = [edit(small, np.random.default_rng(seed)) for seed in range(DRAWS)]
    assert {result.shape for result in results} == {small.shape}
    changed = np.mean([not np.array_equal(result, small) for result in results])
    assert changed == pytest.approx(0.24, abs=0.07)
