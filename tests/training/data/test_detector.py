"""The detector's networks as they are written into a bundle."""

from dataclasses import astuple
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.detect import YUNET, DetectorSpec, load_detector
from ingest.probe import probe_image
from scorer.bundle.bundle import Bundle
from training.data.detector import copy_detector, describe_licence, describe_licences, round_mantissas


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


@pytest.mark.parametrize("spec", [DetectorSpec(), YUNET], ids=lambda spec: spec.architecture)
def test_the_copied_files_are_those_of_the_specification(tmp_path: Path, spec: DetectorSpec) -> None:
    """A bundle gets exactly the files that its specification names, they load, and each has a licence."""
    copy_detector(tmp_path, spec)
    copied = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.xz")}
    assert copied == set(spec.files)
    load_detector(tmp_path, spec, threads=1)
    assert {name: "yunet" in describe_licence(spec, name) for name in copied} == {
        name: "yunet" in name for name in copied
    }
    assert describe_licences(spec).count("Apache-2.0") == len({describe_licence(spec, name) for name in copied})
