"""A run for TensorRT: only the plan needs a GPU."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from ingest.device import find_gpu
from ingest.exif import TAG_NAMES
from scorer.bundle.bundle import read_bundle
from tests.small_extractor import make_small_extractor
from training import bundle, steps
from training.data.detector import copy_detector
from training.evaluation import card
from training.evaluation.inputs import EvaluatedRun
from training.export.onnx import export_onnx
from training.export.target import Deployment
from training.recipes import PAPER_FEATURES, Recipe

GPU = Deployment("tensorrt", "fp16")


def build_small_engine(run: Path, _recipe: Recipe, deployment: Deployment) -> Path:
    """Export a small network instead of the run's, which takes minutes on a CPU."""
    return export_onnx(
        make_small_extractor(),
        deployment.engine(run).parents[2],
        deployment.precision,
        np.zeros((2, 224, 224, 3), np.uint8),
    )


@pytest.mark.slow
def test_a_fresh_run_needs_no_openvino(
    evaluated: EvaluatedRun, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every step with --target tensorrt uses the ONNX graph only; the plan waits."""
    recipe = replace(evaluated.recipe, threshold_on="train", feature_size=PAPER_FEATURES)
    for module in (steps, bundle, card):
        monkeypatch.setattr(
            module, "load_role", lambda _, role: evaluated.load_role("fit" if role == "train" else role)
        )
    monkeypatch.setattr(steps, "build_engine", build_small_engine)
    monkeypatch.setattr(steps, "measure_pretext", lambda *_: evaluated.pretext)
    copy_detector(tmp_path)
    facts = dict.fromkeys((*TAG_NAMES, "manipulation"), 0.7) | {"epoch": 3.0, "merit": 0.7}
    prepared = {"photographs": 9, "dropped": {}, "roles": {"test": {"sources": 2}}, "landmarks": "face-api"}
    for name, content in (("progress.jsonl", facts), ("prepare.json", prepared), ("recipe.json", asdict(recipe))):
        (tmp_path / name).write_text(json.dumps(content) + "\n")
    (tmp_path / steps.CHECKPOINT).touch()

    steps.build_engine(tmp_path, recipe, GPU)
    steps.fit_run(tmp_path, recipe, GPU, 1)
    steps.calibrate_run(tmp_path, GPU, 1)
    report = steps.evaluate_run(tmp_path, pictures, recipe, GPU, 1)
    folder = bundle.write_bundle(tmp_path, recipe, GPU, 1)

    assert not list(tmp_path.rglob("face_extractor/1/*.xml*"))
    assert list(report["engines"]) == ["fp32", "fp16"]
    assert "onnxruntime" in report["run"]["versions"]
    written = read_bundle(folder)
    assert written.manifest.plan is not None
    text = written.manifest.evaluation.note + (folder / "MODEL_CARD.md").read_text()
    assert "OpenVINO" not in text
    assert "executed on a CPU by onnxruntime" in text
    if find_gpu()[1]:
        sentence = bundle.add_plan(tmp_path, folder, recipe)
        assert sentence.startswith("no plan yet (")
        assert f"run `unlensed bundle build {folder}` on the GPU that serves" in sentence
