"""Training: interruptions, divergence, the files that remain, and the resume."""

import dataclasses
import json
import os
import resource
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from scorer.errors import TrainingDiverged, TrainingInterrupted
from tests.training.pretext import tiny_training
from tests.training.pretext.tiny_training import (
    HELD_OUT_FACES,
    make_faces,
    make_network,
    make_recipe,
    read_log,
    train_tiny,
)
from training.data.shards import FaceSet
from training.pretext.checkpoints import load_checkpoint, read_notes
from training.pretext.network import PretextNetwork, load_initial
from training.pretext.preflight import list_warnings
from training.pretext.trainer import TrainOptions, train_extractor
from training.pretext.validation import CONTROL
from training.recipes import LossRule, OptimiserRule

STEPS = 4  # in one epoch of the tiny recipe
TIMEOUT_S = 240


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """One thread, so that sums of floats have the same order in every process."""
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a training without interruption."""
    torch.set_num_threads(1)
    run = tmp_path_factory.mktemp("reference")
    train_tiny(run, make_recipe())
    return run


def assert_same_curve(run: Path, reference: Path) -> None:
    """Compare losses, held-out metrics and the final weights."""
    lines, expected = read_log(run), read_log(reference)
    assert [line["epoch"] for line in lines] == [1.0, 2.0, 3.0]
    for line, other in zip(lines, expected, strict=True):
        assert line == pytest.approx(other, rel=1e-6, abs=1e-9)
    weights, others = (load_file(folder / "last.safetensors") for folder in (run, reference))
    assert weights.keys() == others.keys()
    for name, values in weights.items():
        torch.testing.assert_close(values, others[name], rtol=1e-6, atol=1e-9)


def test_losses_fall_and_the_files_exist(reference: Path) -> None:
    """The loss of a training without interruption falls, and the files for later steps exist."""
    lines = read_log(reference)
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert all({"loss", "loss_iso", "iso", "manipulation", "merit", CONTROL} <= line.keys() for line in lines)
    assert json.loads((reference / "recipe.json").read_text())["name"] == "tiny"
    assert json.loads((reference / "init.json").read_text()) == {}  # no initial weights
    assert list((reference / "tensorboard").glob("events.out.tfevents.*"))
    assert not (reference / "copiers").exists()  # the recipe has no rule for them
    best = max(lines, key=lambda line: line["merit"])
    network = make_network(make_recipe())
    assert load_checkpoint(reference / "best.safetensors", network)["epoch"] == best["epoch"]
    load_checkpoint(reference / "last.safetensors", network)


@pytest.mark.slow
@pytest.mark.parametrize("every", [1, 3])
def test_a_killed_training_resumes_without_difference(reference: Path, tmp_path: Path, every: int) -> None:
    """A training killed in the second epoch is resumed with the same curve."""
    if every == 1:
        command = [sys.executable, tiny_training.__file__, str(tmp_path), "--die-after", str(STEPS + 2)]
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])}
        ended = subprocess.run(command, env=environment, check=False, capture_output=True, timeout=TIMEOUT_S)
        assert ended.returncode == -signal.SIGKILL, ended.stderr
    else:  # the same in this process, with steps that are lost and repeated
        with pytest.raises(StepLost):
            run_to_loss(tmp_path, STEPS + 2, every)
    assert len(read_log(tmp_path)) == 1
    train_tiny(tmp_path, make_recipe())
    assert_same_curve(tmp_path, reference)


class StepLost(Exception):
    """Simulates a crash within a step."""


def run_to_loss(run: Path, after: int, every: int) -> None:
    """Train until the forward pass number `after` + 1 fails, with a checkpoint every `every` steps."""
    network = make_network(make_recipe())
    passes = []

    def fail(*_: object) -> None:
        passes.append(network.training)
        if sum(passes) > after:
            raise StepLost

    network.extractor.register_forward_pre_hook(fail)
    train_with(network, run, save_every_steps=every)


def train_with(network: PretextNetwork, run: Path, **options: object) -> Path:
    """Train a network that the test prepared."""
    options = {"console": Console(quiet=True), "save_every_steps": 1} | options
    train, held_out = make_faces(tiny_training.TRAIN_FACES), make_faces(HELD_OUT_FACES, seed=1)
    return train_extractor(network, train, held_out, make_recipe(), run, TrainOptions(**options))


def test_a_finished_training_is_not_trained_again(reference: Path) -> None:
    """A second call returns the best checkpoint and does not change the log."""
    before = (reference / "progress.jsonl").read_text()
    assert train_tiny(reference, make_recipe()) == reference / "best.safetensors"
    assert (reference / "progress.jsonl").read_text() == before


def test_another_recipe_or_other_faces_do_not_resume(reference: Path) -> None:
    """A run folder of another training is refused with an error that says what to do."""
    with pytest.raises(ValueError, match="the recipe tiny, whose settings seed, batch_size differ: finish"):
        train_tiny(reference, make_recipe(seed=6, batch_size=8))
    network, faces = make_network(make_recipe()), make_faces(12)
    with pytest.raises(ValueError, match="16 faces and there are 12 now: restore"):
        train_extractor(network, faces, faces, make_recipe(), reference, TrainOptions(console=Console(quiet=True)))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_after_the_step_and_the_training_resumes(
    reference: Path, tmp_path: Path, number: signal.Signals
) -> None:
    """The step is saved, the error says how to resume, handlers are restored."""
    network = make_network(make_recipe())
    passes = []

    def interrupt(*_: object) -> None:
        passes.append(network.training)
        if sum(passes) == STEPS + 2:
            os.kill(os.getpid(), number)

    network.extractor.register_forward_pre_hook(interrupt)
    before = signal.getsignal(number)
    with pytest.raises(TrainingInterrupted, match="stopped after step 2 of 4 in epoch 2; the same command resumes"):
        train_with(network, tmp_path, save_every_steps=None)
    assert signal.getsignal(number) is before
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("draw")]
    train_tiny(tmp_path, make_recipe())
    assert_same_curve(tmp_path, reference)


def test_a_training_resumes_after_a_full_disk(reference: Path, tmp_path: Path) -> None:
    """The previous checkpoint is kept, the error says why, a later call resumes."""
    with pytest.raises(StepLost):
        run_to_loss(tmp_path, STEPS + 1, every=1)
    kept = (tmp_path / "last.safetensors").read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(kept) // 2, limits[1]))
    try:
        with pytest.raises(
            TrainingInterrupted, match=r"cannot be written .*: free some space; the same command resumes"
        ):
            train_tiny(tmp_path, make_recipe())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (tmp_path / "last.safetensors").read_bytes() == kept
    assert not list(tmp_path.glob("*.partial"))
    train_tiny(tmp_path, make_recipe())
    assert_same_curve(tmp_path, reference)


def test_a_diverged_training_stops_and_keeps_the_checkpoint(tmp_path: Path) -> None:
    """Far too large rates are an error, and saved weights are finite."""
    diverging = OptimiserRule(decay="decoupled", head_rate=1e3, backbone_rate=1e30, weight_decay=0.0)
    with pytest.raises(TrainingDiverged, match=r"is (nan|no longer).* in step \d of epoch 1; no checkpoint contains"):
        train_tiny(tmp_path, make_recipe(optimiser=diverging))
    if (tmp_path / "last.safetensors").exists():
        assert all(values.isfinite().all() for values in load_file(tmp_path / "last.safetensors").values())


def select_tags(faces: FaceSet, values: list[float]) -> FaceSet:
    """Give every face the same tags."""
    faces.tags[:] = values
    return faces


def test_equal_tags_cause_a_warning_before_the_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Equal tags are a warning; single constant tags are named."""
    same = select_tags(make_faces(8), [2.8, 0.01, 50.0, 100.0])
    recipe = make_recipe(epochs=1)
    train_extractor(make_network(recipe), same, same, recipe, tmp_path)
    assert "no two training faces differ in any EXIF tag (1 named cameras)" in capsys.readouterr().err
    same.tags[3, 0] = 4.0
    assert list_warnings(same, recipe, random_weights=False) == [
        "no two training faces differ in exposure_time_s, focal_length_mm, iso: these tags will not be learned"
    ]
    assert list_warnings(make_faces(8), recipe, random_weights=False) == []


def test_initial_weights_are_loaded_or_missing(
    reference: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Training starts from `init`; a ResNet-50 without it is one warning."""
    unchanged = make_recipe(epochs=1, optimiser=OptimiserRule("decoupled", 0.0, 0.0, 0.0))
    train_tiny(tmp_path / "given", unchanged, init=reference / "best.safetensors", console=Console(stderr=True))
    assert "random weights" not in capsys.readouterr().err
    trained, start = (load_file(folder / "best.safetensors") for folder in (tmp_path / "given", reference))
    assert torch.equal(trained["extractor.last.weight"], start["extractor.last.weight"])
    train_tiny(tmp_path / "none", unchanged, console=Console(stderr=True))
    assert capsys.readouterr().err.count("resnet50 starts from random weights") == 1
    train_tiny(tmp_path / "none", unchanged, console=Console(stderr=True))
    assert "random weights" not in capsys.readouterr().err


@pytest.mark.parametrize("keeps", ["best", "last"])
def test_a_recipe_states_the_epoch_that_is_kept(tmp_path: Path, keeps: Literal["best", "last"]) -> None:
    """The kept epoch is the best, or the last whatever its figures are."""
    recipe = make_recipe(epochs=3, keeps=keeps)
    train_tiny(tmp_path, recipe)
    merits = [row["merit"] for row in read_log(tmp_path)]
    kept = read_notes(tmp_path / "best.safetensors")["facts"]["epoch"]
    assert kept == (3 if keeps == "last" else 1 + max(range(3), key=lambda epoch: merits[epoch]))


def test_weights_without_a_training_state_do_not_resume(reference: Path, tmp_path: Path) -> None:
    """A `last.safetensors` without a training state is refused."""
    (tmp_path / "last.safetensors").write_bytes((reference / "best.safetensors").read_bytes())
    with pytest.raises(ValueError, match="contains weights but no training state"):
        train_tiny(tmp_path, make_recipe())


@pytest.mark.parametrize(
    ("train", "held_out", "error"),
    [(3, 4, "3 training faces are fewer than one batch of 4"), (8, 0, "no held-out face")],
)
def test_too_few_faces_are_refused(tmp_path: Path, train: int, held_out: int, error: str) -> None:
    """A training with too few faces for one step, or without held-out faces, is refused."""
    faces, held_out_faces = (make_faces(8).select(np.arange(count)) for count in (train, held_out))
    with pytest.raises(ValueError, match=error):
        train_extractor(make_network(make_recipe()), faces, held_out_faces, make_recipe(), tmp_path)


def make_cameras(count: int, seed: int = 0) -> FaceSet:
    """Return faces of two cameras in turn, and of one in the last face only."""
    faces = make_faces(count, seed)
    names = np.array(["a", "b"])[np.arange(count) % 2].astype("U4")
    names[-1] = "rare"
    return dataclasses.replace(faces, cameras=names)


def test_cameras_and_kinds_are_classes_of_the_training_only(tmp_path: Path) -> None:
    """Heads for cameras and kinds are trained, resumed, and not needed afterwards."""
    recipe = make_recipe(losses=LossRule(camera_weight=0.5, kind_weight=0.5), epochs=1)
    faces, held_out = make_cameras(40), make_faces(HELD_OUT_FACES, seed=1)
    options = TrainOptions(console=Console(quiet=True))
    network = make_network(recipe)
    best = train_extractor(network, faces, held_out, recipe, tmp_path, options)
    assert network.classes["camera"] == ("a", "b")
    assert {"loss_camera", "loss_kind"} <= read_log(tmp_path)[0].keys()
    start = make_network(recipe)
    start.add_classifiers(network.classes, recipe.seed)
    for task in ("camera", "kind"):
        assert not torch.equal(network.classifiers[task].weight, start.classifiers[task].weight)

    deployed = make_network(recipe)
    load_checkpoint(best, deployed)
    assert not deployed.classifiers
    assert torch.equal(deployed.extractor.last.weight, network.extractor.last.weight)
    load_initial(make_network(make_recipe()), best)

    train_extractor(make_network(recipe), faces, held_out, recipe, tmp_path, options)  # it is finished
    others = dataclasses.replace(faces, cameras=np.where(faces.cameras == "a", "c", faces.cameras))
    with pytest.raises(ValueError, match="to tell other cameras apart than the 40 faces have now: restore"):
        train_extractor(make_network(recipe), others, held_out, recipe, tmp_path, options)


def test_a_classifying_training_resumes_with_the_same_curve(tmp_path: Path) -> None:
    """A resumed training has the losses and weights of one that did not stop."""
    recipe = make_recipe(
        losses=LossRule(camera_weight=0.5, kind_weight=0.5), centred_heads=True, balance_sources=True, epochs=1
    )
    faces, held_out = make_cameras(40), make_faces(HELD_OUT_FACES, seed=1)
    options = TrainOptions(console=Console(quiet=True), save_every_steps=1)
    whole, stopped = make_network(recipe), make_network(recipe)
    train_extractor(whole, faces, held_out, recipe, tmp_path / "whole", options)
    passes = []

    def fail(*_: object) -> None:
        passes.append(stopped.training)
        if sum(passes) > 4:
            raise StepLost

    stopped.extractor.register_forward_pre_hook(fail)
    with pytest.raises(StepLost):
        train_extractor(stopped, faces, held_out, recipe, tmp_path / "resumed", options)
    resumed = make_network(recipe)
    train_extractor(resumed, faces, held_out, recipe, tmp_path / "resumed", options)
    assert read_log(tmp_path / "resumed") == read_log(tmp_path / "whole")
    assert all(torch.equal(values, whole.state_dict()[name]) for name, values in resumed.state_dict().items())


def test_a_long_gradient_is_clipped(tmp_path: Path) -> None:
    """The gradient is clipped to the largest norm; other recipes do not clip."""
    norms = {}
    for clip in (None, 1e-6):
        rule = OptimiserRule(decay="coupled", head_rate=1e-3, backbone_rate=1e-3, weight_decay=0.0, clip_norm=clip)
        recipe = make_recipe(optimiser=rule, epochs=1)
        network, options = make_network(recipe), TrainOptions(console=Console(quiet=True))
        train_extractor(network, make_faces(4), make_faces(4, seed=1), recipe, tmp_path / str(clip), options)
        gradients = [value.grad.flatten() for value in network.parameters() if value.grad is not None]
        norms[clip] = float(torch.cat(gradients).norm())
    assert norms[1e-6] == pytest.approx(1e-6, rel=1e-2)
    assert norms[None] > 1e-4
