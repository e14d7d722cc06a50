"""The detector's networks as they are written into a bundle."""

from dataclasses import astuple
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ingest.detect import DetectorSpec, load_detector
from ingest.probe import probe_image
from scorer.bundle.bundle import Bundle
from training.data.detector import copy_detector, round_mantissas


def test_the_starter_has_the_detector_that_is_written(starter: Bundle, portrait: bytes, tmp_path: Path) -> None:
    """The package's networks, as a new bundle gets them, find the same face as the starter's."""
    copy_detector(tmp_path, DetectorSpec())
    info = probe_image(portrait)
    (new,), (shipped,) = (
        load_detector(folder, DetectorSpec(), 1).detect(portrait, info) for folder in (tmp_path, starter.folder)
    )
    np.testing.assert_allclose(astuple(new.box), astuple(shipped.box), atol=1e-3)
    assert abs(new.confidence - shipped.confidence) < 1e-4


@given(st.lists(st.floats(-1000, 1000, width=16), min_size=1))
def test_rounding_keeps_sign_order_and_size(values: list[float]) -> None:
    """A rounded weight differs by at most a 64th, equal weights stay equal, and rounding twice changes nothing."""
    weights = np.array(values, np.float16)
    rounded = round_mantissas(weights)
    normal = np.abs(weights) >= np.finfo(np.float16).tiny
    assert np.all(np.abs(rounded - weights)[normal] <= np.abs(weights[normal]) / 64)
    assert np.all(np.diff(rounded[np.argsort(weights)]) >= 0)
    np.testing.assert_array_equal(round_mantissas(rounded), rounded)
