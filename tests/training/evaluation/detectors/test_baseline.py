"""Baselines: interruptions and the resume, published weights, and the command."""

import io
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from rich.console import Console
from safetensors.torch import load_file, save_file

from scorer.errors import TrainingDiverged, TrainingInterrupted
from tests.training.evaluation.detectors import tiny_detector
from tests.training.evaluation.detectors.tiny_detector import (
    BATCH,
    DESIGN,
    STEPS,
    TinyNetwork,
    draw_pictures,
    train_tiny,
    write_filters,
)
from training.cli import main
from training.evaluation.detectors import catalogue
from training.evaluation.detectors.base import WeightsAbsent
from training.evaluation.detectors.baseline import STATEMENT, import_baseline, open_baseline
from training.evaluation.detectors.pictures import BatchMaker, TrainingPictures, hold_out
from training.evaluation.detectors.train_baseline import BaselineOptions, BaselineTraining, train_baseline
from training.evaluation.detectors.windows import WindowFiles, Windows
from training.evaluation.features.weights import WrongWeights

TIMEOUT_S = 240


class CrashError(Exception):
    """Simulates the end of the process."""


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """One thread, so that sums of floats have the same order in every process."""
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def filters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file that the tiny detector needs."""
    return write_filters(tmp_path_factory.mktemp("files"))["filters"]


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory, filters: Path) -> Path:
    """The run folder of a training without interruption."""
    torch.set_num_threads(1)
    run = tmp_path_factory.mktemp("reference")
    train_tiny(run, filters)
    return run


def read_facts(run: Path) -> dict[str, Any]:
    """Return the content of baseline.json without the time."""
    facts = json.loads((run / "baselines" / "tiny" / "baseline.json").read_text())
    return {name: value for name, value in facts.items() if name != "seconds"}


def read_log(run: Path) -> list[dict[str, float]]:
    """Return the log lines without the times."""
    lines = (run / "baselines" / "tiny" / "progress.jsonl").read_text().splitlines()
    return [{name: value for name, value in json.loads(line).items() if name != "seconds"} for line in lines]


def assert_same(run: Path, reference: Path) -> None:
    """Compare the log, the final state, the selected weights and what is stated about them."""
    for line, other in zip(read_log(run), read_log(reference), strict=True):
        assert line == pytest.approx(other, rel=1e-5, abs=1e-7)
    for name in ("weights.safetensors", "last.safetensors"):
        values, others = (load_file(folder / "baselines" / "tiny" / name) for folder in (run, reference))
        torch.testing.assert_close(values, others, rtol=1e-5, atol=1e-7)
    assert read_facts(run)["selected"] == pytest.approx(read_facts(reference)["selected"])


def test_the_files_state_what_was_trained(reference: Path) -> None:
    """The weights are of the latest of the most accurate validations; no bundle may hold them."""
    facts, lines = read_facts(reference), read_log(reference)
    best = max(reversed(lines), key=lambda line: line["accuracy"])
    assert facts["selected"] == {name: value for name, value in best.items() if name != "loss"}
    assert [line["step"] for line in lines] == sorted({-(-STEPS * tenth // 10) for tenth in range(1, 11)})
    assert (facts["steps"], facts["batch_size"]) == (STEPS, BATCH)
    assert facts["parameters"] == facts["published_parameters"] == DESIGN.parameters
    assert "must never enter a bundle" in facts["statement"]
    assert facts["weights"] == "trained on real faces and faces of the generator enlarged noise"
    stored = load_file(reference / "baselines" / "tiny" / "weights.safetensors")
    assert "filters.weight" not in stored  # it is in the design's own file
    assert "linear.weight" in stored


@pytest.mark.long
def test_a_killed_training_resumes_without_difference(reference: Path, filters: Path, tmp_path: Path) -> None:
    """A process killed between two validations is resumed with the same weights."""
    command = [sys.executable, tiny_detector.__file__, str(tmp_path), str(filters), "--die-after", "7"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[4])}
    ended = subprocess.run(command, env=environment, check=False, capture_output=True, timeout=TIMEOUT_S)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    train_tiny(tmp_path, filters)
    assert_same(tmp_path, reference)


def test_a_validation_that_is_not_saved_is_made_again(
    reference: Path, filters: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps lost between log line and checkpoint are repeated, without a second line."""
    save, saved = BaselineTraining.save, []

    def fail(training: BaselineTraining) -> None:
        saved.append(training.position.step)
        if len(saved) == 6:
            raise CrashError
        save(training)

    monkeypatch.setattr(BaselineTraining, "save", fail)
    with pytest.raises(CrashError):
        train_tiny(tmp_path, filters, save_every_s=1e6)
    assert (saved[-2:], read_log(tmp_path)[-1]["step"]) == ([6, 8], 8.0)
    monkeypatch.undo()
    train_tiny(tmp_path, filters)
    assert_same(tmp_path, reference)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_after_the_step(
    reference: Path, filters: Path, tmp_path: Path, number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The step finishes, the message says how to resume, the result is the same."""
    forward = TinyNetwork.forward

    def send(network: TinyNetwork, inputs: torch.Tensor) -> torch.Tensor:
        if network.training and network.passes == 4:
            os.kill(os.getpid(), number)
        return forward(network, inputs)

    monkeypatch.setattr(TinyNetwork, "forward", send)
    with pytest.raises(TrainingInterrupted, match=r"stopped after step 5 of 12; the same command resumes from .*last"):
        train_tiny(tmp_path, filters, save_every_s=1e6)
    monkeypatch.undo()
    train_tiny(tmp_path, filters)
    assert_same(tmp_path, reference)


def test_a_finished_training_is_not_trained_again(reference: Path, filters: Path) -> None:
    """A second call changes neither the weights nor the log."""
    folder = reference / "baselines" / "tiny"
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    train_tiny(reference, filters, die_after=0)
    assert before == {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_another_training_does_not_resume(reference: Path, filters: Path, tmp_path: Path) -> None:
    """Other settings, pictures or files are refused by name."""
    with pytest.raises(ValueError, match="trained with another steps and batch_size: finish it with those, or delete"):
        train_tiny(reference, filters, steps=7, batch_size=4)
    other = tmp_path / "other.safetensors"
    save_file({"filters": torch.zeros(8, 3, 3, 3)}, other)
    with pytest.raises(ValueError, match="trained with another files"):
        train_tiny(reference, other)
    with pytest.raises(ValueError, match="trained with another pictures"):
        train_baseline(DESIGN, draw_pictures(4, 2), reference, BaselineOptions(files={"filters": filters}))


def test_a_loss_that_is_not_finite_ends_the_training(
    filters: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error names the step."""
    monkeypatch.setattr(TinyNetwork, "loss", lambda network, inputs, _labels: network(inputs).sum() * torch.nan)
    with pytest.raises(TrainingDiverged, match="the loss is nan in step 1 of the training of Tiny"):
        train_tiny(tmp_path, filters)


def test_a_baseline_scores_as_its_validation_did(reference: Path, filters: Path, tmp_path: Path) -> None:
    """A loaded detector has its accuracy; another or absent file is refused."""
    detector, pictures, facts = open_baseline(DESIGN, reference), draw_pictures(8, 6), read_facts(reference)
    assert (detector.score_batch(pictures.held_out_real) <= 0).mean() == facts["selected"]["accuracy_real"]
    assert (detector.score_batch(pictures.held_out_generated) > 0).mean() == facts["selected"]["accuracy_generated"]
    other = tmp_path / "other.safetensors"
    save_file({"filters": torch.zeros(8, 3, 3, 3)}, other)
    with pytest.raises(WrongWeights, match=r"another file than the one with which .* was made: give filters=PATH"):
        open_baseline(DESIGN, reference, {"filters": other})
    with pytest.raises(WeightsAbsent, match=r"Tiny needs a file .*\(.*absent does not exist\): The filters"):
        open_baseline(DESIGN, reference, {"filters": tmp_path / "absent"})
    with pytest.raises(WeightsAbsent, match=r"no finished baseline: run `unlensed-train baseline tiny .*published"):
        open_baseline(DESIGN, tmp_path)
    moved = filters.with_name("moved.safetensors")
    moved.write_bytes(filters.read_bytes())
    assert open_baseline(DESIGN, reference, {"filters": moved}).name == "tiny"


def test_published_weights_become_the_baseline(reference: Path, filters: Path, tmp_path: Path) -> None:
    """They are loaded strictly, scored with, and never written over a training."""
    files, path = {"filters": filters}, tmp_path / "layer.safetensors"
    save_file({"weight": torch.ones(1, 8), "bias": torch.zeros(1)}, path)
    assert import_baseline(DESIGN, path, tmp_path, files)["weights"] == f"published: {DESIGN.published_at}"
    network = open_baseline(DESIGN, tmp_path).network
    assert torch.equal(network.get_submodule("linear").weight.cpu(), torch.ones(1, 8))
    with pytest.raises(ValueError, match="contains a training"):
        import_baseline(DESIGN, path, reference, files)
    save_file({"weight": torch.ones(1, 8), "offset": torch.zeros(1)}, path)
    with pytest.raises(WrongWeights, match=r"1 missing \(bias\), 1 unknown \(offset\)"):
        import_baseline(DESIGN, path, tmp_path, files)
    with pytest.raises(WeightsAbsent, match="absent does not exist: The layer is published nowhere"):
        import_baseline(DESIGN, tmp_path / "absent", tmp_path, files)
    with pytest.raises(WeightsAbsent, match=r"give filters=PATH\): The filters are published nowhere"):
        import_baseline(DESIGN, path, tmp_path, {})
    with pytest.raises(ValueError, match="Tiny has no file 'clip'; it has filters"):
        import_baseline(DESIGN, path, tmp_path, files | {"clip": filters})


def test_a_training_begins_with_the_weights_of_another(reference: Path, filters: Path, tmp_path: Path) -> None:
    """After one tiny step the layer is near the initial one, whose digest is stated."""
    initial = reference / "baselines" / "tiny" / "weights.safetensors"
    design = replace(DESIGN, rule=replace(DESIGN.rule, rate=1e-6, steps=1))
    options = BaselineOptions(files={"filters": filters}, init=initial, console=Console(file=io.StringIO()))
    facts = train_baseline(design, draw_pictures(4, 2), tmp_path, options)
    assert facts["files"]["init"]["path"] == str(initial)
    layers = (load_file(run / "baselines" / "tiny" / "weights.safetensors") for run in (reference, tmp_path))
    before, after = (state["linear.weight"] for state in layers)
    torch.testing.assert_close(before, after, rtol=0, atol=2e-6)
    with pytest.raises(WeightsAbsent, match="absent does not exist: The layer is published nowhere"):
        train_baseline(design, draw_pictures(4, 2), tmp_path, replace(options, init=tmp_path / "absent"))


@given(sizes=st.lists(st.integers(1, 40), min_size=1, max_size=30), seed=st.integers(0, 9))
def test_whole_sources_are_held_out(sizes: list[int], seed: int) -> None:
    """A source is trained on or held out; the share is a tenth or one small source."""
    groups = np.repeat([f"source {number}" for number in range(len(sizes))], sizes)
    if len(groups) == 1:
        return
    held_out = hold_out(groups, np.random.default_rng(seed))
    assert 0 < held_out.sum() < len(groups)
    assert held_out.sum() <= max(len(groups) / 10, min(sizes) if len(sizes) > 1 else 1)
    if len(sizes) > 1:
        assert not set(groups[held_out]) & set(groups[~held_out])


def make_windows(names: list[str]) -> Windows:
    """Return windows that are never read."""
    sources, count = np.array([name.partition("/")[0] for name in names]), len(names)
    places = np.arange(count)[:, None].repeat(4, 1)
    return Windows(
        WindowFiles([], places), np.array(names), sources, np.ones(count), np.ones(count, np.int16), count, {}
    )


def test_the_split_is_stated_by_source() -> None:
    """Counts stand by source; other pictures have another digest; one face is refused."""
    real = make_windows([f"{source}/{number}" for source in "abc" for number in range(10)])
    generated = make_windows([str(number) for number in range(20)])
    pictures = TrainingPictures.split(real, generated, "painter", seed=1)
    sources = pictures.facts["real"]["sources"]
    assert sorted(of["held_out"] for of in sources.values()) == [0, 0, 10]
    assert (len(pictures.real), len(pictures.held_out_real)) == (20, 10)
    assert (len(pictures.generated), len(pictures.held_out_generated)) == (18, 2)
    again = TrainingPictures.split(real, make_windows(["x", *map(str, range(19))]), "painter", seed=1)
    assert again.digest != pictures.digest == TrainingPictures.split(real, generated, "painter", seed=2).digest
    with pytest.raises(ValueError, match="there is a single generated face"):
        TrainingPictures.split(real, make_windows(["x"]), "painter")


def test_batches_are_functions_of_seed_and_step() -> None:
    """Half is generated, each pass has each picture once, also resumed."""
    pictures = draw_pictures(4, 0)
    design = replace(DESIGN, rule=replace(DESIGN.rule, augment=None))
    with ThreadPoolExecutor(2) as pool:
        batches = list(BatchMaker(design, pictures, 4, 1).iterate(0, 4, pool))
        later = list(BatchMaker(design, pictures, 4, 1).iterate(2, 4, pool))
        augmented = [next(BatchMaker(DESIGN, pictures, 4, seed).iterate(0, 1, pool))[0] for seed in (1, 1, 2)]
    assert all(labels.tolist() == [0, 0, 1, 1] for _, labels in batches)
    for side, kept in ((slice(2), pictures.real), (slice(2, 4), pictures.generated)):
        seen = Counter(each.numpy().tobytes() for inputs, _ in batches for each in inputs[side])
        assert seen == Counter({DESIGN.preprocess(picture).tobytes(): 2 for picture in kept})
    for (inputs, _), (others, _) in zip(batches[2:], later, strict=True):
        assert torch.equal(inputs, others)
    assert torch.equal(augmented[0], augmented[1])
    assert not torch.equal(augmented[0], augmented[2])


def run_main(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """Run `unlensed-train baseline npr` with the tiny design; return the exit code."""
    monkeypatch.setattr(catalogue, "find_design", lambda _name: DESIGN)
    monkeypatch.setattr(sys, "argv", ["unlensed-train", "baseline", "npr", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code)


def test_the_command_trains_from_two_folders(
    filters: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Faces are cut once and divided by source, and the counts are printed."""
    portrait = Image.fromarray(skimage.data.astronaut()).crop((60, 0, 440, 340))
    for number, name in enumerate(("real/a/1", "real/a/2", "real/b/1", "painter/1", "painter/2")):
        path = tmp_path / f"{name}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        portrait.save(path, quality=80 + number)
    run = tmp_path / "run"
    arguments = (run, "--real", tmp_path / "real", "--generated", tmp_path / "painter")
    options = ("--file", f"filters={filters}", "--steps", 2, "--batch-size", 4, "--device", "cpu", "--threads", 1)
    assert run_main(monkeypatch, *arguments, *options) == 0
    printed = capsys.readouterr().err
    assert "real faces: 2 to train, 1 held out (1 of 2 sources)" in printed
    assert "faces of painter: 1 to train, 1 held out" in printed
    assert STATEMENT.split(":")[0] in printed
    facts = read_facts(run)
    assert facts["data"]["real"]["sources"] == {"a": {"train": 2, "held_out": 0}, "b": {"train": 0, "held_out": 1}}
    assert facts["data"]["generator"] == "painter"
    assert len(list((run / "windows").iterdir())) == 2


@pytest.mark.parametrize(
    ("arguments", "code", "named"),
    [
        ([], 2, "give --real and --generated"),
        (["--real", "{run}"], 2, "give --real and --generated"),
        (["--real", "{run}", "--generated", "{run}", "--weights", "{run}/w.pth"], 2, "give --real and --generated"),
        (["--weights", "{run}/w.pth", "--file", "filters={run}/absent"], 78, "The filters are published nowhere"),
        (["--weights", "{run}/w.pth", "--file", "filters={filters}"], 78, "The layer is published nowhere"),
        (["--real", "{run}", "--generated", "{run}"], 78, "give filters=PATH"),
        (["--real", "{run}/x", "--generated", "{run}/y", "--file", "filters={filters}"], 65, "no picture was found"),
        (["--weights", "{run}/w.pth", "--file", "clip={filters}"], 65, "Tiny has no file 'clip'"),
    ],
)
def test_errors_name_the_cause(
    arguments: list[str],
    code: int,
    named: str,
    filters: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The error of each wrong call names the cause, and the exit code is that of its kind."""
    (tmp_path / "run").mkdir()
    texts = [text.format(run=tmp_path / "run", filters=filters) for text in arguments]
    assert run_main(monkeypatch, tmp_path / "run", *texts) == code
    assert named in capsys.readouterr().err
