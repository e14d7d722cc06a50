"""Processed copies of held-out faces."""

import io
from dataclasses import replace

import numpy as np
import pytest
import skimage
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ingest.image_metadata import read_image_metadata
from ingest.probe import probe_image
from ingest.spec import PreprocessSpec
from scorer.strata import Stratum, stratum_of
from tests.training.pretext.tiny_training import make_faces
from training.data import copies
from training.data.copies import Crop, StratumCopies, select_rows

SIDES = np.array([64.0, 100.0, 128.0, 150.0, 400.0])


@pytest.fixture(scope="module")
def wide() -> Crop:
    """The public-domain astronaut's face, 320 px."""
    return np.asarray(Image.fromarray(skimage.data.astronaut()).crop((150, 40, 300, 220)).resize((320, 320)))


@pytest.mark.parametrize("stratum", Stratum)
def test_copies_are_of_their_stratum(monkeypatch: pytest.MonkeyPatch, wide: Crop, stratum: Stratum) -> None:
    """Size and quality of each copy, as a server reads them, are those of the stratum."""
    made: list[tuple[int, str, int]] = []

    def record(crop: Crop, kind: str, quality: int) -> Crop:
        buffer = io.BytesIO()
        Image.fromarray(crop).save(buffer, kind, quality=quality)
        data = buffer.getvalue()
        known = read_image_metadata(data, probe_image(data)).jpeg_quality
        made.append((len(crop), kind, known or 0))
        return crop

    monkeypatch.setattr(copies, "encode", record)
    rows = select_rows(stratum, SIDES)
    if stratum is Stratum.LARGE:
        assert not len(rows)
        return
    maker = StratumCopies(stratum, SIDES[rows].repeat(20), 1.3, 224)
    for row in range(len(rows) * 20):
        assert maker.make(wide, row).shape == (224, 224, 3)
    assert len(made) == len(rows) * 20 or "no_quality" in stratum
    for window, _, quality in made:
        # The window is rounded to whole pixels, so that a face next to 128 px may be in the other stratum.
        assert stratum_of(round(window / 1.3), quality or None) == stratum or abs(window - 128 * 1.3) < 1


@pytest.mark.parametrize("stratum", [stratum for stratum in Stratum if stratum.has_copies])
def test_a_face_always_gets_the_same_copy(wide: Crop, stratum: Stratum) -> None:
    """A copy depends on its face and row only and leaves its input unchanged."""
    before = wide.copy()
    maker = StratumCopies(stratum, np.full(9, 300.0), 1.3, 224)
    plain = copies.rescale(wide, 224, Image.Resampling.BILINEAR)
    one = maker.make(wide, 3)
    np.testing.assert_array_equal(one, maker.make(wide, 3))
    assert not np.array_equal(one, maker.make(wide, 4))
    assert 0 < np.abs(one.astype(int) - plain).mean() < 20
    np.testing.assert_array_equal(wide, before)


@given(st.sampled_from(Stratum), st.lists(st.floats(1, 5000), min_size=1, max_size=20))
def test_no_face_is_enlarged(stratum: Stratum, sides: list[float]) -> None:
    """Only faces that are as large as the stratum requires are chosen."""
    rows = select_rows(stratum, np.array(sides))
    least = np.inf if not stratum.has_copies else 64 if stratum.is_small else 128
    assert rows.tolist() == [row for row, side in enumerate(sides) if side >= least]


def test_copies_of_a_mixture_are_two_and_of_many_strata(wide: Crop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each face has two copies in different strata; small faces have small ones."""
    made: list[tuple[int, Stratum]] = []
    make = StratumCopies.make

    def record(maker: StratumCopies, picture: Crop, row: int) -> Crop:
        made.append((row, maker.stratum))
        return make(maker, picture, row)

    monkeypatch.setattr(StratumCopies, "make", record)
    sides = np.repeat([300.0, 100.0, 40.0], 6)
    faces = replace(make_faces(len(sides)), short_sides=sides)
    first, second = copies.make_copies(faces, PreprocessSpec())
    for row in range(len(sides)):
        one, two = first(wide, row), second(wide, row)
        assert one.shape == two.shape == (224, 224, 3)
        assert not np.array_equal(one, two)
        np.testing.assert_array_equal(one, copies.make_copies(faces, PreprocessSpec())[0](wide, row))
    of_large = {stratum for row, stratum in made if row < 6}
    assert of_large == {name for name in Stratum if name.has_copies}
    assert {stratum for row, stratum in made if row >= 6} == {
        name for name in Stratum if name.is_small and name.has_copies
    }
