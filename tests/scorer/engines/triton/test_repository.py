"""The files that Triton reads are what rendering gives, and hold no code."""

import json
from pathlib import Path

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from ingest.spec import PreprocessSpec
from scorer.bundle.bundle import Bundle
from scorer.bundle.manifest import BatchProfile
from scorer.engines.triton.repository import CROPS_GRAPH, PREPROCESS_FILE, ServingFacts, render_repository
from tests.scorer.engines.triton import gpu_repository
from training.export.target import Deployment
from training.export.triton_repository import write_repository

ON_GPU = Deployment("tensorrt", "fp16", BatchProfile(opt=8, max=32))


def test_the_starter_bundle_is_as_rendered(starter: Bundle) -> None:
    """The checked-in configurations are the rendered ones, and the manifest lists each of them."""
    facts = starter.manifest
    texts = render_repository(
        ServingFacts(
            facts.preprocess, facts.extractor, facts.feature_size, facts.input_tensor, facts.output_tensor, None
        )
    )
    assert {name: (starter.folder / name).read_text() for name in texts} == texts
    assert set(texts) <= set(facts.files)


def test_training_writes_them(tmp_path: Path, starter: Bundle) -> None:
    """An exported bundle gets the very files of the starter bundle."""
    write_repository(tmp_path, PreprocessSpec(), starter.manifest.feature_size, Deployment("openvino", "int8"))
    written = [path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) == 5
    assert all((tmp_path / name).read_text() == (starter.folder / name).read_text() for name in written)


def test_a_gpu_bundle_is_cut_by_dali_and_embedded_by_a_plan(tmp_path: Path) -> None:
    """The configurations are exact; the graph of the crops is where its backend reads it, and there is no Python."""
    write_repository(tmp_path, PreprocessSpec(), 768, ON_GPU)
    files = {path.relative_to(tmp_path).as_posix(): path for path in tmp_path.rglob("*") if path.is_file()}
    assert files["face_crops/config.pbtxt"].read_text() == gpu_repository.CROPS
    assert files["face_extractor/config.pbtxt"].read_text() == gpu_repository.EXTRACTOR
    assert files["face_features/config.pbtxt"].read_text() == gpu_repository.FEATURES
    assert set(files) == {
        *(f"face_{part}/config.pbtxt" for part in ("crops", "extractor", "features")),
        "face_features/1/README.txt",
        CROPS_GRAPH,
    }


@pytest.mark.parametrize("deployment", [Deployment("openvino", "int8"), ON_GPU])
def test_triton_reads_the_configurations(tmp_path: Path, deployment: Deployment) -> None:
    """Each is valid in Triton's own schema, and the ensemble feeds every input of both models."""
    write_repository(tmp_path, PreprocessSpec(), 768, deployment)
    models = {
        path.parent.name: text_format.Parse(path.read_text(), model_config_pb2.ModelConfig())
        for path in tmp_path.glob("*/config.pbtxt")
    }
    for step in models["face_features"].ensemble_scheduling.step:
        assert set(step.input_map) == {tensor.name for tensor in models[step.model_name].input}
        assert set(step.output_map) == {tensor.name for tensor in models[step.model_name].output}
    stated = {(tensor.name, tensor.data_type, *tensor.dims) for tensor in models["face_features"].input}
    assert stated == {(tensor.name, tensor.data_type, *tensor.dims) for tensor in models["face_crops"].input}


def test_the_server_cuts_as_the_manifest_says(starter: Bundle) -> None:
    """The specification beside the cropping model is the manifest's, field by field."""
    fields = json.loads((starter.folder / "face_crops/1" / PREPROCESS_FILE).read_text())
    assert PreprocessSpec.from_json(fields) == starter.manifest.preprocess


def test_an_extractor_elsewhere_is_refused() -> None:
    """Triton would not find a network outside of its model's first version."""
    with pytest.raises(ValueError, match="face_extractor/1"):
        render_repository(ServingFacts(PreprocessSpec(), "networks/model.xml", 768, "crops", "features"))
