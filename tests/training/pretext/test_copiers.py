"""Copiers: their training on the role `train` only, its resume, and the copies."""

import json
import shutil
import sys
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest
import skimage
import torch
from PIL import Image
from rich.console import Console
from safetensors.torch import load_file

from scorer.errors import TrainingInterrupted
from tests.training.data.drawn_photos import DrawnPhotos, make_cutter, prepare_drawn
from tests.training.pretext.tiny_training import make_network, make_recipe, read_log
from training.data.indexing import index_run
from training.data.shards import load_role
from training.pretext.checkpoints import read_notes
from training.pretext.copier_steps import CopierSteps
from training.pretext.copiers import build_copier
from training.pretext.copying import FaceCopier, match_spectrum, run_copier
from training.pretext.distributed import Ranks
from training.pretext.train_copiers import FOLDER, draw_patches, obtain_copier
from training.pretext.trainer import TrainOptions, train_extractor
from training.pretext.validation import CONTROL, COPIES
from training.recipes import AugmentRule, CopierRule, Recipe, starter

KINDS = CopierRule().kinds
SIDE = 320


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """One thread, so that sums of floats have the same order in every training."""
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def face() -> np.ndarray:
    """A portrait in the public domain."""
    return np.asarray(Image.fromarray(skimage.data.astronaut()[:256, 96:352]).resize((SIDE, SIDE)))


def make_copying_recipe(**changes: object) -> Recipe:
    """Return the tiny recipe with copies by networks of two steps, and processing."""
    rule = CopierRule(**{"kinds": ("transposed4", "denoise"), "steps": 2, "batch": 2, "patch_px": 32} | changes)
    augment = AugmentRule(warps=1, copiers=rule, processing=True, processed_ranking=0.5)
    return make_recipe(epochs=1, augment=augment)


def obtain(run: Path, wide: np.ndarray, recipe: Recipe, stop: threading.Event | None = None) -> FaceCopier:
    """Train or load the copiers."""
    copier = obtain_copier(run, wide, recipe, Ranks(), Console(quiet=True), stop or threading.Event())
    assert copier is not None
    return copier


@pytest.mark.parametrize("kind", KINDS)
def test_each_network_copies_any_size(face: np.ndarray, kind: str) -> None:
    """A copy has the shape of any face, and the generator decides all."""
    torch.manual_seed(2)
    network = build_copier(kind).eval()
    for side in (64, 75):
        small = cv2.resize(face, (side, side))
        once, again = (run_copier(network, small, np.random.default_rng(3)) for _ in range(2))
        assert once.shape == (side, side, 3)
        assert np.array_equal(once, again)
        assert np.isfinite(once).all()


def test_trained_copies_differ_and_keep_the_face(tmp_path: Path, face: np.ndarray) -> None:
    """After a short training copies differ from the face and correlate with it."""
    recipe = make_copying_recipe(kinds=("transposed4", "sr4"), steps=80, batch=2)
    copier = obtain(tmp_path, face[None], recipe)
    copies = [copier(face, np.random.default_rng(seed)) for seed in range(12)]
    similar = [np.corrcoef(copied.ravel(), face.ravel())[0, 1] for copied in copies]
    assert min(similar) > 0.6
    assert np.median(similar) > 0.9
    assert all((copied != face).mean() > 0.1 for copied in copies)
    assert len({copied.tobytes() for copied in copies}) > 4  # two networks, with and without noise, mixed or not
    lines = [json.loads(line) for line in (tmp_path / FOLDER / "progress.jsonl").read_text().splitlines()]
    assert [(line["kind"], line["steps"]) for line in lines] == [("transposed4", 80), ("sr4", 80)]


def test_the_loss_falls(face: np.ndarray) -> None:
    """The error of an autoencoder on one batch falls to less than half of its first value."""
    recipe = make_copying_recipe()
    torch.manual_seed(1)
    steps = CopierSteps(build_copier("nearest8").train(), recipe, 60)
    patches = draw_patches(face[None], recipe.augment.copiers, np.random.default_rng(0))
    errors = [steps.take(patches, number) for number in range(60)]
    assert np.mean(errors[-5:]) < np.mean(errors[:5]) / 2


def test_a_copy_gets_the_spectrum_of_its_face(face: np.ndarray) -> None:
    """A blurred copy regains half of its detail; an exact one does not change."""
    blurred = cv2.GaussianBlur(face, (0, 0), 1.0).astype(np.float32)

    def measure_detail(pixels: np.ndarray) -> float:
        return float(np.abs(cv2.Laplacian(pixels.astype(np.float32), cv2.CV_32F)).mean())

    matched = match_spectrum(blurred, face)
    lost = measure_detail(face) - measure_detail(blurred)
    assert lost > measure_detail(face) / 2
    assert lost / 2 < measure_detail(matched) - measure_detail(blurred) < lost
    assert np.abs(match_spectrum(face.astype(np.float32), face) - face).max() < 0.5


def read_weights(run: Path) -> dict[str, bytes]:
    """Return the bytes of each network."""
    return {path.name: path.read_bytes() for path in sorted((run / FOLDER).glob("*.safetensors"))}


class Killed(Exception):
    """Simulates a crash within a step."""


def test_finished_networks_survive_a_crash(tmp_path: Path, face: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a crash in the second network the first is not trained again."""
    recipe, whole, broken = make_copying_recipe(kinds=KINDS[:3]), tmp_path / "whole", tmp_path / "broken"
    obtain(whole, face[None], recipe)
    taken = []

    def count(steps: CopierSteps, patches: torch.Tensor, number: int) -> float:
        taken.append(number)
        if len(taken) == 4:
            raise Killed
        return take(steps, patches, number)

    take = CopierSteps.take
    monkeypatch.setattr(CopierSteps, "take", count)
    with pytest.raises(Killed):
        obtain(broken, face[None], recipe)
    assert list(read_weights(broken)) == [f"{KINDS[0]}.safetensors"]
    obtain(broken, face[None], recipe)
    assert len(taken) == 4 + 2 * 2  # two steps of each of the two missing networks
    first, second = (load_networks(run) for run in (whole, broken))
    assert first.keys() == second.keys()
    for name, values in first.items():
        torch.testing.assert_close(values, second[name], rtol=1e-6, atol=1e-9)


def load_networks(run: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of all networks."""
    paths = sorted((run / FOLDER).glob("*.safetensors"))
    return {f"{path.stem}.{name}": values for path in paths for name, values in load_file(path).items()}


def test_a_stop_keeps_finished_networks_only(tmp_path: Path, face: np.ndarray) -> None:
    """A stop names the network; no unfinished one is written."""
    stop = threading.Event()
    stop.set()
    with pytest.raises(TrainingInterrupted, match="at the copier transposed4; the same command continues"):
        obtain(tmp_path, face[None], make_copying_recipe(), stop)
    assert not read_weights(tmp_path)


def test_copiers_of_another_training_are_refused(tmp_path: Path, face: np.ndarray) -> None:
    """Other steps, patches or faces are named, and the error says what to do."""
    recipe = make_copying_recipe()
    obtain(tmp_path, face[None], recipe)
    with pytest.raises(ValueError, match="another faces and patch_px: delete the folder copiers"):
        obtain(tmp_path, np.stack([face, face]), make_copying_recipe(patch_px=40))


@pytest.mark.slow
def test_training_with_copies_reads_photographs_of_its_roles_only(tmp_path: Path) -> None:
    """From drawn photographs to a checkpoint: copiers see the role `train`, validation measures copies of `fit`.

    No file of another role and no generated picture beside the run is opened.
    """
    run, generated = tmp_path / "run", tmp_path / "generated"
    generated.mkdir()
    Image.new("RGB", (96, 96)).save(generated / "face.png")
    photos, cutter = DrawnPhotos(18), make_cutter(run)
    inputs, records = prepare_drawn(run, photos, cutter, {"ann": "train", "bob": "fit"})
    recipe = make_copying_recipe()
    index_run(run, records, inputs, starter())
    shutil.copytree(run / "faces" / "fit", run / "faces" / "calibrate")
    opened: list[str] = []
    watching = True

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        if watching and event == "open":
            opened.append(str(arguments[0]))

    sys.addaudithook(watch)
    train, held_out = load_role(run, "train"), load_role(run, "fit")
    options = TrainOptions(console=Console(quiet=True))
    checkpoint = train_extractor(make_network(recipe), train, held_out, recipe, run, options)
    watching = False
    inside = {Path(path).relative_to(tmp_path).parts for path in opened if path.startswith(str(tmp_path))}
    assert any(parts[:3] == ("run", "faces", "train") for parts in inside)
    assert not [parts for parts in inside if parts[0] == "generated"]
    assert {parts[2] for parts in inside if parts[:2] == ("run", "faces") and len(parts) > 2} == {"train", "fit"}
    line = read_log(run)[0]
    assert 0 <= line[COPIES] <= 1
    assert 0 <= line[CONTROL] <= 1
    for kind in recipe.augment.copiers.kinds:
        assert read_notes(run / FOLDER / f"{kind}.safetensors")["copier"]["faces"] == len(train)
    assert checkpoint.exists()
    before = read_weights(run)
    assert train_extractor(make_network(recipe), train, held_out, recipe, run, options) == checkpoint
    assert read_weights(run) == before
