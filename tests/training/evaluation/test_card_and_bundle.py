"""The card and the bundle of an evaluated run: every fact is the run's own."""

import json
import shutil
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ingest.exif import TAG_NAMES
from scorer.bundle.bundle import MANIFEST, Bundle, read_bundle
from scorer.bundle.exif_heads import read_exif_heads
from scorer.engines.triton.repository import SERVED_SPEC
from scorer.errors import BundleMismatch
from scorer.fitting.calibrate import HeldOutFaces, describe_calibration, describe_strata
from scorer.local_scorer import LocalScorer
from scorer.meaning import explain_pass
from scorer.settings import Settings
from training import bundle as export
from training.evaluation import card
from training.evaluation.inputs import EvaluatedRun
from training.evaluation.run_facts import RunFacts
from training.evaluation.stated import state_evaluation
from training.export.target import Deployment
from training.pretext.checkpoints import save_checkpoint
from training.pretext.network import build_network
from training.recipes import Recipe, paper
from training.recipes import starter as starter_recipe
from training.run_recipe import CHECKPOINT

pytestmark = pytest.mark.slow

ENGINE = Deployment("openvino", "int8")
IMPORTED = "imported from a checkpoint of the kind exif-as-language: as its publishers state"
Export = Callable[..., Bundle]


def test_card_lists_the_supported_rates() -> None:
    """Each rate has its threshold and interval, or the reason why not."""
    calibration = describe_calibration(np.arange(400.0), np.arange(400).astype(str))
    assert card.describe_thresholds(calibration).splitlines() == [
        "| 5 % | 19.0 | 3.1 to 7.3 % |",
        "| 1 % | 3.0 | 0.27 to 2.2 % |",
        "| 0.1 % | - | n = 400 cannot support 0.1 %: at least 3688 photographs are needed |",
    ]


def test_card_states_the_features_the_head_and_the_copies() -> None:
    """The numbers are the recipe's; without head or copies there is no word of them."""
    facts = RunFacts(Path(), {}, {}, {}, {}, "")
    text = facts.describe_extractor(starter_recipe())
    assert "a new 1x1 convolution to 256 channels" in text
    assert "fitted on the role fit, turns them into 4 whitened principal components" in text
    assert "a last layer of 768 outputs" in facts.describe_extractor(paper())
    assert "components" not in facts.describe_extractor(paper())
    assert card.describe_faces({"faces": 9, "copies_of_each_face": 2}).startswith("9 faces and 2 reduced")
    assert card.describe_faces({"faces": 9}) == "9 faces"


@pytest.mark.parametrize(("keeps", "epoch"), [("best", 2), ("last", 3)])
def test_facts_are_of_the_epoch_that_was_kept(tmp_path: Path, keeps: str, epoch: int) -> None:
    """The card has the figures of the kept epoch."""
    rows = [{"epoch": 1, "merit": 0.5}, {"epoch": 2, "merit": 0.7}, {"epoch": 3, "merit": 0.6}]
    (tmp_path / "progress.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "prepare.json").write_text("{}")
    (tmp_path / "recipe.json").write_text(json.dumps({"keeps": keeps}))
    assert RunFacts.read(tmp_path).epoch["epoch"] == epoch


def test_card_lists_the_strata() -> None:
    """Each stratum has its size and rate, or too few photographs."""
    strata = np.array(["no_quality"] * 20 + ["small_low_quality"] * 380 + ["large"] * 90)
    _, described = describe_strata(HeldOutFaces(np.arange(490.0), np.arange(490).astype(str), strata))
    assert card.describe_strata({"strata": described}).splitlines() == [
        "| large | 90 | 90 | 5 % | 403.0 |",
        "| no_quality | 20 | 20 | too few: pooled | - |",
        "| small_low_quality | 380 | 380 | 1 % | 38.0 |",
    ]


def write_step_files(run: Path, report: dict[str, Any], recipe: Recipe, initial: dict[str, str]) -> dict[str, object]:
    """Write the files of the steps before an export; return the calibration's report."""
    facts = dict.fromkeys((*TAG_NAMES, "manipulation"), 0.7) | {"epoch": 3.0, "merit": 0.7}
    fit = {
        "precision": "int8",
        "shape": "full K=1",
        "faces": 24,
        "roles": ["fit"],
        "held_out_nats": {"fit full K=1": 1.0},
        "held_out_alarms": {"fit full K=1": 0.125},
        "held_out_by": "source",
        "selection": "The role fit (2 sources) also selected the epoch.",
    }
    prepared = {
        "photographs": 9,
        "dropped": {"near_duplicate": 1, "unreadable": 0},
        "roles": {"train": {"sources": 2, "cameras": {"NORITA 66": 7}}},
        "landmarks": "face-alignment",
    }
    calibration = describe_calibration(np.arange(103.0), np.arange(103).astype(str)) | {"strata": {}}
    files = {"fit.json": fit, "prepare.json": prepared, "progress.jsonl": facts, "init.json": initial}
    files |= {"recipe.json": {"name": recipe.name, "epochs": 7, "batch_size": 12}}
    for name, content in (files | {"evaluation.json": report, "calibration.json": calibration}).items():
        (run / name).write_text(json.dumps(content) + "\n")
    return calibration


@pytest.fixture
def export_run(
    report: dict[str, Any], evaluated: EvaluatedRun, starter: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Export:
    """Exports a run with the starter bundle's engine, mixture and calibration."""
    faces = evaluated.load_role("test")
    for module in (card, export):
        monkeypatch.setattr(module, "load_role", lambda _run, _role: faces)

    def write(recipe: Recipe, initial: dict[str, str], data_licence: str = "") -> Bundle:
        shutil.copytree(starter.folder / "face_extractor", ENGINE.engine(tmp_path).parents[1])
        for name in ("mixture.npz", "calibration.npz"):
            shutil.copy(starter.folder / name, tmp_path)
        write_step_files(tmp_path, report, recipe, initial)
        return read_bundle(export.write_bundle(tmp_path, recipe, ENGINE, 1, data_licence))

    return write


def test_a_bundle_states_its_run_s_figures(export_run: Export, report: dict[str, Any], evaluated: EvaluatedRun) -> None:
    """Card and manifest take every figure from the run's files, and name no source."""
    written = export_run(evaluated.recipe, {})
    assert written.manifest.evaluation == state_evaluation(report)
    assert written.manifest.calibration == (1741, 103, None)
    text = (written.folder / "MODEL_CARD.md").read_text()
    assert explain_pass(written.manifest.evaluation, 0.05) in text
    assert report["verdict"]["summary"] in text
    assert f"| plain | 4 | {card.describe_auc(report['operating_points']['raw']['auc']['plain'])} |" in text
    assert "| 1% | - | - | 20 |" in text
    assert "| JPEG 90 | " in text
    head = "| target rate | threshold (nats) | 95 % interval of the true rate |\n|---|---|---|\n"
    rows = card.describe_thresholds(describe_calibration(np.arange(103.0), np.arange(103).astype(str)))
    assert f"of 103 photographs of the role calibrate:\n\n{head}{rows}" in text
    assert "| fit full K=1 | 1.0 | 12.5% |" in text
    assert "epoch 3 of 7, batch 12" in text
    for fact in (
        "demonstration",
        "EfficientNet-Lite0, Apache-2.0",
        "The role fit (2 sources) also",
        "NORITA 66 (7 faces)",
    ):
        assert fact in text
    assert "For research only" in written.manifest.licence
    assert "private.example" not in text
    assert "$" not in text


def test_a_bundle_carries_the_trained_heads(
    export_run: Export, evaluated: EvaluatedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where photographs have different tags, the checkpoint's heads are in the bundle and their figures in the card."""
    network = build_network(evaluated.recipe)
    network.state_dict()["centre.running_var"].fill_(4.0)
    save_checkpoint(tmp_path / CHECKPOINT, network, evaluated.recipe, {})
    faces = evaluated.load_role("test")
    tags = np.repeat(np.arange(1.0, 11.0), 2)[:, None] * np.array([1, 0.01, 10, np.nan])
    monkeypatch.setattr(export, "load_role", lambda _run, _role: replace(faces, tags=tags))
    written = export_run(evaluated.recipe, {})
    heads = read_exif_heads(written)
    assert heads is not None
    trained = network.state_dict()["heads.focal_length_mm.weight"][0] / 2
    np.testing.assert_allclose(heads.weights[2], trained, rtol=1e-4)
    assert heads.photographs.tolist() == [10, 10, 10, 0]
    assert heads.tags[2, [0, -1]].tolist() == [10, 100]
    assert "- focal_length_mm: 0." in (written.folder / "MODEL_CARD.md").read_text()


def test_nothing_of_the_starter_is_in_another_bundle(export_run: Export, evaluated: EvaluatedRun) -> None:
    """A ResNet-50 from imported weights names these and its data, and no EfficientNet."""
    recipe = replace(paper(), precision="int8", threshold_on=evaluated.recipe.threshold_on)
    initial = {"file": "exif.safetensors", "sha256": "ab" * 32, "origin": IMPORTED}
    written = export_run(recipe, initial, "FDF, Flickr photographs under CC BY 2.0.")
    text = (written.folder / "MODEL_CARD.md").read_text() + (written.folder / MANIFEST).read_text()
    for fact in (
        IMPORTED,
        "ResNet-50 with a last layer",
        "exif.safetensors",
        "CC BY 2.0",
        "2D-FAN-4",
        "with antialiasing",
    ):
        assert fact in text
    for foreign in ("EfficientNet", "efficientnet", "Nikon", "repositories that", "demonstration", "face-api"):
        assert foreign not in text
    assert written.manifest.licence.startswith("The terms of both apply")
    assert written.manifest.bundle_id.startswith("paper-")


def test_a_bundle_serves_with_its_recipe_s_crops(export_run: Export, evaluated: EvaluatedRun) -> None:
    """No scorer starts if the bundle states another cut than its recipe's."""
    spec = replace(evaluated.recipe.preprocess, antialias=False)
    written = export_run(replace(evaluated.recipe, preprocess=spec), {})
    assert written.manifest.preprocess == spec
    settings = Settings(bundle=written.folder, threads=1, batch_images=4)
    with closing(LocalScorer(settings)) as scorer:  # the golden faces have their recorded results
        assert scorer.bundle.model.preprocess == spec
    path = written.folder / MANIFEST
    fields = json.loads(path.read_text())
    fields["preprocess"]["antialias"] = True
    path.write_text(json.dumps(fields))
    with pytest.raises(BundleMismatch, match=r"cuts faces in another way than bundle.json states"):
        LocalScorer(settings)
    served = written.folder / SERVED_SPEC
    served.write_text(json.dumps(fields["preprocess"]))
    licences = {name: record["licence"] for name, record in fields.pop("files").items()}
    del fields["schema_version"]
    export.write_manifest(written.folder, fields, licences)
    with pytest.raises(BundleMismatch, match="nats away from the golden answers"):
        LocalScorer(settings)


def test_steps_that_are_missing_are_named(tmp_path: Path) -> None:
    """An export says which step comes first, with its target."""
    with pytest.raises(FileNotFoundError, match="run `unlensed-train fit` first"):
        export.write_bundle(tmp_path, paper(), ENGINE, 1)
    (tmp_path / "fit.json").write_text(json.dumps({"precision": "int8"}))
    with pytest.raises(FileNotFoundError, match="run `unlensed-train calibrate` first"):
        export.write_bundle(tmp_path, paper(), ENGINE, 1)
    with pytest.raises(FileNotFoundError, match="run `unlensed-train evaluate --target tensorrt` first"):
        export.find_report(tmp_path, Deployment("tensorrt", "fp16"))
    (tmp_path / "evaluation.json").touch()
    assert export.find_report(tmp_path, Deployment("tensorrt", "fp16")) == tmp_path
