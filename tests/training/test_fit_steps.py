"""`fit` and `calibrate` on a run folder, with features of a real engine."""

import io
import json
import os
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from scorer.bundle.calibration import load_calibration
from scorer.commands import progress
from scorer.commands.terminal import Terminal
from scorer.strata import Stratum
from tests.small_extractor import make_small_extractor
from training import steps
from training.data.shards import FaceSet
from training.exif_heads import find_weights
from training.export.head import read_head
from training.export.onnx import export_onnx
from training.export.openvino import export_extractor
from training.export.target import Deployment
from training.pretext.checkpoints import save_checkpoint
from training.pretext.network import build_network
from training.recipes import PAPER_FEATURES, MixtureRule, MixtureShape, PcaHead, Recipe, paper, starter
from training.step_tables import print_calibration, print_fit

pytestmark = pytest.mark.slow

FACES = 150
ENGINE = Deployment("openvino", "fp32")


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    """The starter's recipe with two small candidates, the second of which cannot be fitted."""
    shapes = (MixtureShape("diag", 2), MixtureShape("diag", 4000))
    plain = replace(starter(), head=None, feature_size=PAPER_FEATURES)
    return replace(plain, precision="fp32", mixture=MixtureRule(shapes, role_sets=(("fit",),)))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder that contains only an engine."""
    run = tmp_path_factory.mktemp("run")
    export_extractor(make_small_extractor(), run / "engine" / "fp32", "fp32", np.zeros((1, 224, 224, 3), np.uint8))
    return run


@pytest.fixture(autouse=True)
def fixture_faces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every role has 150 synthetic faces of 90 photographs from three sources, the same on every call.

    The faces of two in three photographs are small, and all photographs are JPEGs of a high quality.
    """

    def load(_: Path, role: str) -> FaceSet:
        rng = np.random.default_rng(len(role))
        plain = rng.integers(60, 200, (FACES, 1, 1, 3)) + rng.integers(-20, 20, (FACES, 8, 8, 3))
        index = np.arange(FACES)
        names = np.array(["a", "b", "c"])[index % 3]
        return FaceSet(
            crops=plain.astype(np.uint8).repeat(28, axis=1).repeat(28, axis=2),
            wide=plain.astype(np.uint8).repeat(40, axis=1).repeat(40, axis=2),
            landmarks=np.zeros((FACES, 68, 2), np.float32),
            tags=np.full((FACES, 4), np.nan),
            photos=np.array([f"{row % 90}" for row in index]),
            sources=names,
            cameras=names,
            short_sides=np.where(index % 90 < 60, 100.0, 200.0),
            jpeg_qualities=np.full(FACES, 92, np.int16),
        )

    monkeypatch.setattr(steps, "load_role", load)


def test_fit_then_calibrate(run: Path, recipe: Recipe) -> None:
    """The reports have shape, bound, refused candidates, thresholds and unsupported rates."""
    with pytest.raises(FileNotFoundError, match=r"no fit.json: run `unlensed-train fit`"):
        steps.calibrate_run(run, ENGINE, 1)
    report = steps.fit_run(run, recipe, ENGINE, 1)
    assert report == json.loads((run / "fit.json").read_text())
    assert report["shape"] == "diag K=2"
    assert list(report["held_out_nats"]) == ["fit diag K=2"]
    assert "4000 components need at least as many faces" in report["refused"]["fit diag K=4000"]
    assert report["components"] == {}
    assert "The role fit (3 sources) did not select the epoch" in report["selection"]
    assert "(1 source) also selected the epoch" in steps.describe_selection(np.array(["only"]), paper())
    assert report["converged"]
    assert sum(report["faces_by_component"]) == pytest.approx(FACES, abs=0.2)
    calibration = steps.calibrate_run(run, ENGINE, 1)
    assert calibration == json.loads((run / "calibration.json").read_text())
    assert (calibration["faces"], calibration["photographs"]) == (FACES, 90)
    assert list(calibration["thresholds"]) == ["0.05"]
    assert "n = 90 cannot support 1 %: at least 368 photographs" in calibration["refused"]["0.01"]
    with np.load(run / "calibration.npz", allow_pickle=False) as arrays:
        assert all((np.diff(arrays[name]) >= 0).all() for name in arrays.files)
    screen = io.StringIO()
    print_calibration(calibration, Terminal(file=screen, width=120))
    found = calibration["thresholds"]["0.05"]
    assert f"{found['nats']:.1f}" in screen.getvalue()
    assert f"{found['nats_low']:.1f} to {found['nats_high']:.1f}" in screen.getvalue()
    assert "n = 90 cannot support 1 %" in screen.getvalue()
    assert "{" not in screen.getvalue()
    steps.fit_run(run, recipe, ENGINE, 1)
    assert not (run / "calibration.npz").exists()  # of the earlier mixture


def test_a_sweep_keeps_the_best_mixture_of_each_number(run: Path, recipe: Recipe) -> None:
    """Given numbers replace the recipe's; a table shows all mixtures."""
    report = steps.fit_run(run, recipe, ENGINE, 1, components=(1, 2, 3))
    assert list(report["held_out_nats"]) == [f"fit diag K={count}" for count in (1, 2, 3)]
    assert list(report["held_out_alarms"]) == list(report["held_out_nats"])
    assert report["held_out_by"] == "source"
    sweep = steps.read_sweep(run, report)
    assert [len(swept.mixture.weights) for swept in sweep.values()] == [1, 2, 3]
    best = max(report["held_out_nats"], key=report["held_out_nats"].__getitem__)
    assert f"fit {report['shape']}" == best
    chosen = sweep[int(best[-1])]
    assert chosen.held_out_nats == report["held_out_nats"][best]
    np.testing.assert_array_equal(chosen.mixture.means, steps.read_mixture(run / "mixture.npz").means)
    screen = io.StringIO()
    print_fit(report, Terminal(file=screen, width=120))
    (row,) = [line for line in screen.getvalue().splitlines() if line.strip().startswith("->")]
    assert best in row
    assert f"{report['held_out_nats'][best]:.2f}" in row
    assert "{" not in screen.getvalue()
    steps.fit_run(run, recipe, ENGINE, 1, components=(2,))
    assert not (run / "components").exists()


def test_a_sweep_on_a_single_source_holds_out_photographs(
    run: Path, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in CelebA-HQ, one source cannot be held out; the report says that photographs were."""
    load = steps.load_role
    monkeypatch.setattr(
        steps, "load_role", lambda path, role: replace(load(path, role), sources=np.full(FACES, "only"))
    )
    report = steps.fit_run(run, recipe, ENGINE, 1, components=(1, 2))
    assert report["held_out_by"] == "photograph"
    assert "(1 source) did not select" in report["selection"]
    with pytest.raises(ValueError, match="has 1 source"):
        steps.fit_run(run, recipe, ENGINE, 1)


def test_a_calibration_has_strata_of_copies(run: Path, recipe: Recipe) -> None:
    """Small copies are of all 90 photographs; 30 with larger faces are too few."""
    steps.fit_run(run, recipe, ENGINE, 1)
    report = steps.calibrate_run(run, ENGINE, 1)
    strata = report["strata"]
    assert {name: (part["photographs"], part["used"]) for name, part in strata.items()} == {
        name: (90, True) if name.is_small else (30, False) for name in Stratum if name.has_copies
    }
    assert [strata[f"small_{name}_quality"]["faces"] for name in ("high", "low", "no")] == [FACES + 120, FACES, FACES]
    written = (run / "calibration.npz").read_bytes()
    calibration = load_calibration(run / "calibration.npz")
    assert set(calibration.strata) == {name for name in Stratum if name.is_small and name.has_copies}
    assert not np.array_equal(calibration.strata[Stratum.SMALL_LOW_QUALITY], calibration.pooled)
    assert steps.calibrate_run(run, ENGINE, 1) == report
    assert (run / "calibration.npz").read_bytes() == written


def test_progress_counts_the_iterations_of_each_mixture(
    run: Path, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A line has mixture, iteration and bound; each mixture counts from 1."""
    monkeypatch.setattr(progress, "INTERVAL_S", 0.0)
    output = io.StringIO()
    steps.fit_run(run, recipe, ENGINE, 1, Console(file=output))
    lines = [json.loads(line) for line in output.getvalue().splitlines()]
    assert set(lines[0]) == {"done", "total", "iterations_per_s", "left_s", "mixture", "bound_nats"}
    counted = [line["done"] for line in lines]
    assert counted.count(1) > 1
    assert all(after in {1, before + 1} for before, after in pairwise([0, *counted]))


def test_progress_on_a_terminal_is_one_line(run: Path, recipe: Recipe) -> None:
    """A terminal shows one line, which is finally erased."""
    output = io.StringIO()
    steps.fit_run(run, recipe, ENGINE, 1, Console(file=output, force_terminal=True, width=120))
    assert "fitting" in output.getvalue()
    assert "{" not in output.getvalue()


def test_each_target_has_its_own_results(run: Path, recipe: Recipe) -> None:
    """TensorRT's results come from the ONNX graph, in a folder of their own."""
    deployment = Deployment("tensorrt", "fp16")
    with pytest.raises(FileNotFoundError, match=r"no fit.json: run `unlensed-train fit` first, with --target tensorrt"):
        steps.calibrate_run(run, deployment, 1)
    steps.fit_run(run, recipe, ENGINE, 1)
    before = {path.name: path.read_bytes() for path in run.glob("*.*")}
    export_onnx(
        make_small_extractor(),
        deployment.results(run) / "engine" / "fp16",
        "fp16",
        np.zeros((1, 224, 224, 3), np.uint8),
    )
    report = steps.fit_run(run, recipe, deployment, 1)
    assert report["precision"] == "fp16"
    steps.calibrate_run(run, deployment, 1)
    assert {path.name for path in (run / "tensorrt-fp16").glob("*.*")} == {
        "fit.json",
        "mixture.npz",
        "calibration.json",
        "calibration.npz",
    }
    assert {path.name: path.read_bytes() for path in run.glob("*.*")} == before


def test_a_head_is_fitted_first_and_the_engine_contains_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a head and copies `fit` fits a mixture of components; the head is fitted once."""
    faces, load = 12, steps.load_role
    monkeypatch.setattr(steps, "load_role", lambda path, role: load(path, role).select(np.arange(faces)))
    rule = MixtureRule((MixtureShape("full", 1, 0.1),), role_sets=(("fit",),), copies=True)
    recipe = replace(starter(), precision="fp32", head=PcaHead(4, roles=("fit",)), mixture=rule)
    save_checkpoint(tmp_path / "best.safetensors", build_network(recipe), recipe, {})
    with pytest.raises(FileNotFoundError, match=r"no head.npz: run `unlensed-train fit`"):
        steps.build_engine(tmp_path, recipe, ENGINE)
    steps.fit_run_head(tmp_path, recipe, 1)
    written = (tmp_path / "head.npz").stat().st_mtime_ns
    # What the heads that rank tags lose by it has nothing in common with the components.
    network = build_network(recipe)
    features = steps.embed_plain(network.extractor, tmp_path, recipe, 1)
    components, whole = (
        features @ read_head(tmp_path / "head.npz")[0],
        find_weights(tmp_path, replace(recipe, head=None), 1),
    )
    lost = features @ whole.T - components @ find_weights(tmp_path, recipe, 1).T
    np.testing.assert_allclose(np.cov(lost.T, components.T)[:4, 4:], 0, atol=1e-4)
    steps.build_engine(tmp_path, recipe, ENGINE)
    report = steps.fit_run(tmp_path, recipe, ENGINE, 1)
    assert (report["faces"], report["copies_of_each_face"]) == (faces, 2)
    assert sum(report["faces_by_component"]) == pytest.approx(3 * faces, abs=0.2)
    mixture = steps.read_mixture(tmp_path / "mixture.npz")
    assert mixture.means.shape == (1, 4)
    np.testing.assert_allclose(mixture.means, 0, atol=0.05)  # the head was fitted on the same crops and copies
    steps.fit_run_head(tmp_path, recipe, 1)
    assert (tmp_path / "head.npz").stat().st_mtime_ns == written
    os.utime(tmp_path / "best.safetensors")
    steps.fit_run_head(tmp_path, recipe, 1)
    assert (tmp_path / "head.npz").stat().st_mtime_ns > written
    steps.fit_run_head(tmp_path / "none", replace(recipe, head=None), 1)  # nothing to read, nothing to fit
