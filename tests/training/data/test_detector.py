"""The detector's network as it is written into a bundle."""

from pathlib import Path

import pytest

from ingest.detect import load_detector
from ingest.probe import probe_image
from training.data.detector import SPEC, convert_yunet, copy_detector


def test_a_bundle_gets_the_starter_s_detector(root: Path, tmp_path: Path) -> None:
    """Exactly the files that the specification names are copied, unchanged, and they load."""
    copy_detector(tmp_path)
    copied = {str(path.relative_to(tmp_path)): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert copied == {name: (root / "model_repository" / name).read_bytes() for name in SPEC.files}
    load_detector(tmp_path, SPEC, threads=1)


def test_the_published_network_is_converted_to_the_starter_s(root: Path, portrait: bytes, tmp_path: Path) -> None:
    """The file that the authors publish gives, converted, the boxes of the starter's detector."""
    published = root.parent / "shared" / "weights" / "yunet_n_dynamic.onnx"
    if not published.is_file():
        pytest.skip("the published network is not at hand")
    convert_yunet(published, tmp_path / SPEC.file)
    info = probe_image(portrait)
    converted, shipped = (
        load_detector(folder, SPEC, threads=1).detect(portrait, info)
        for folder in (tmp_path, root / "model_repository")
    )
    assert converted == shipped
    assert converted
