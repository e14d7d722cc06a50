"""The files that Triton reads are what rendering gives, and hold no code."""

import json
from pathlib import Path

import pytest

from ingest.spec import PreprocessSpec
from scorer.bundle import Bundle
from scorer.triton.repository import PREPROCESS_FILE, render_repository
from training.export import write_repository


def test_the_starter_bundle_is_as_rendered(starter: Bundle) -> None:
    """Nobody edited the checked-in configurations, and the manifest lists each of them."""
    facts = starter.manifest
    texts = render_repository(
        facts.preprocess, facts.extractor, facts.feature_size, facts.input_tensor, facts.output_tensor
    )
    assert {name: (starter.folder / name).read_text() for name in texts} == texts
    assert set(texts) <= set(facts.files)


def test_training_writes_them(tmp_path: Path, starter: Bundle) -> None:
    """An exported bundle gets the very files of the starter bundle."""
    write_repository(tmp_path, PreprocessSpec(), starter.manifest.feature_size)
    written = [path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) == 5
    assert all((tmp_path / name).read_text() == (starter.folder / name).read_text() for name in written)


def test_the_server_cuts_as_the_manifest_says(starter: Bundle) -> None:
    """The specification beside the cropping model is the manifest's, field by field."""
    fields = json.loads((starter.folder / "face_crops/1" / PREPROCESS_FILE).read_text())
    assert PreprocessSpec.from_json(fields) == starter.manifest.preprocess


def test_an_extractor_elsewhere_is_refused() -> None:
    """Triton would not find a network outside of its model's first version."""
    with pytest.raises(ValueError, match="face_extractor/1"):
        render_repository(PreprocessSpec(), "networks/model.xml", 768, "crops", "features")
