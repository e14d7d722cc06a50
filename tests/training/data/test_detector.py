"""The detector's files of a bundle."""

from pathlib import Path

import pytest

from ingest.detect import YUNET, DetectorSpec, load_detector
from training.data.detector import copy_detector, describe_licence, describe_licences


@pytest.mark.parametrize("spec", [DetectorSpec(), YUNET], ids=lambda spec: spec.architecture)
def test_the_copied_files_are_those_of_the_specification(tmp_path: Path, spec: DetectorSpec) -> None:
    """A bundle gets exactly the files that its specification names, they load, and each has a licence."""
    copy_detector(tmp_path, spec)
    copied = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.gz")}
    assert copied == set(spec.files)
    load_detector(tmp_path, spec, threads=1)
    assert {name: "yunet" in describe_licence(spec, name) for name in copied} == {
        name: "yunet" in name for name in copied
    }
    assert describe_licences(spec).count("Apache-2.0") == len({describe_licence(spec, name) for name in copied})
