"""The detector's networks as they are written into a bundle."""

from dataclasses import astuple
from pathlib import Path

import numpy as np
import pytest

from ingest.detect import YUNET, DetectorSpec, load_detector
from ingest.openvino_core import read_network
from ingest.probe import probe_image
from scorer.bundle.bundle import Bundle
from tests.training.graphs import has_int8_weights
from training.data.detector import copy_detector, describe_licence, describe_licences


def test_the_starter_has_the_detector_that_is_written(starter: Bundle, portrait: bytes, tmp_path: Path) -> None:
    """The package's networks, as a new bundle gets them, find the same face as the starter's."""
    copy_detector(tmp_path, DetectorSpec())
    info = probe_image(portrait)
    (new,), (shipped,) = (
        load_detector(folder, DetectorSpec(), 1).detect(portrait, info) for folder in (tmp_path, starter.folder)
    )
    np.testing.assert_allclose(astuple(new.box), astuple(shipped.box), atol=1e-3)
    assert abs(new.confidence - shipped.confidence) < 1e-4


def test_the_second_network_has_floating_point_weights_where_they_matter(starter: Bundle) -> None:
    """The first, the last and the depthwise convolutions keep their weights; most others have 8 bits."""
    path = starter.folder / DetectorSpec().second_file
    kinds: dict[str, list[bool]] = {"Convolution": [], "GroupConvolution": []}
    for node in read_network(path).get_ordered_ops():
        if node.get_type_name() in kinds:
            kinds[node.get_type_name()].append(has_int8_weights(node))
    dense = kinds["Convolution"]
    assert not any((dense[0], *dense[-4:], *kinds["GroupConvolution"]))
    assert all(dense[1:-4])


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
