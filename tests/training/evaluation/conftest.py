"""A small evaluation with the starter bundle on public-domain faces."""

import io
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage
from PIL import Image
from rich.console import Console

from scorer.bundle.bundle import read_bundle
from scorer.bundle.calibration import write_calibration
from scorer.decide import Calibration
from scorer.fitting.calibrate import describe_calibration
from scorer.mixture import GaussianMixture
from scorer.strata import Stratum
from training.data.shards import FaceSet
from training.evaluation.evaluate import SweptMixture
from training.evaluation.face_scorer import FaceScorer
from training.evaluation.inputs import Comparisons, EvaluatedRun
from training.evaluation.measures import Rate
from training.evaluation.run import measure_run
from training.export.features import Crop
from training.recipes import RECIPES, MixtureRule, MixtureShape

SELECTION = "The role fit also selected the epoch."
ODD_NAME = "<b>odd&name"
FACE = (150, 40, 300, 220)


def vary(seed: int) -> Image.Image:
    """Return the astronaut's portrait with rotation, brightness and noise of a seed."""
    rng = np.random.default_rng(seed)
    turned = Image.fromarray(skimage.data.astronaut()).rotate(rng.uniform(-6, 6), Image.Resampling.BICUBIC)
    pixels = np.asarray(turned) * rng.uniform(0.7, 1.2) + rng.normal(0, rng.uniform(1, 6), (512, 512, 3))
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def make_faces(count: int, first_seed: int) -> FaceSet:
    """Return `count` crops of two sources, with two crops for each photograph."""
    crops = np.stack([np.asarray(vary(first_seed + face).crop(FACE).resize((224, 224))) for face in range(count)])
    numbers = np.arange(count)
    return FaceSet(
        crops=crops,
        wide=np.stack([np.asarray(Image.fromarray(crop).resize((320, 320))) for crop in crops]),
        landmarks=np.zeros((count, 68, 2), np.float32),
        tags=np.ones((count, 4)),
        photos=(numbers // 2).astype(str),
        sources=np.where(numbers % 4 < 2, "private.example", "b"),
        cameras=np.full(count, "camera"),
        short_sides=np.full(count, 150.0),
        jpeg_qualities=np.full(count, 95, np.int16),
    )


@pytest.fixture(scope="package")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two generators with portraits, a file that is no picture, and a picture without a face."""
    folder = tmp_path_factory.mktemp("generated")
    for generator, first_seed in (("plain", 1000), (ODD_NAME, 2000)):
        (folder / generator / "deeper").mkdir(parents=True)
        for picture in range(4):
            vary(first_seed + picture).save(folder / generator / "deeper" / f"{picture}.jpg", quality=90)
    (folder / "plain" / "notes.txt").write_text("no picture")
    Image.new("RGB", (256, 256), "grey").save(folder / "plain" / "empty.png")
    return folder


@pytest.fixture(scope="package")
def evaluated(root: Path, tmp_path_factory: pytest.TempPathFactory) -> EvaluatedRun:
    """A run with the starter bundle's engine and mixture, and a recipe with the paper's protocol."""
    bundle = root / "model_repository"
    run = tmp_path_factory.mktemp("run")
    shutil.copytree(bundle / "face_detector", run / "face_detector")
    (run / "fit.json").write_text(
        json.dumps({"shape": "full K=1", "roles": ["fit"], "faces": 24, "selection": SELECTION})
    )
    roles = {"fit": make_faces(24, 0), "calibrate": make_faces(24, 100), "test": make_faces(20, 200)}
    engine = read_bundle(bundle).extractor
    with np.load(bundle / "mixture.npz") as arrays:
        mixture = GaussianMixture(**{name: arrays[name] for name in arrays.files})
    held_out = roles["calibrate"]
    values = FaceScorer(engine, mixture, 1).log_likelihoods(held_out.crops)
    write_calibration(
        run / "calibration.npz", Calibration(np.sort(values), {Stratum.HIGH_QUALITY: np.sort(values) + 5})
    )
    stratum = {"high_quality": {"faces": 24, "photographs": 12, "used": True, "thresholds": {}}}
    (run / "calibration.json").write_text(
        json.dumps(describe_calibration(values, held_out.photos) | {"strata": stratum})
    )
    rule = MixtureRule((MixtureShape("diag", 1),), role_sets=(("fit",),))
    size = mixture.means.shape[1]
    recipe = replace(RECIPES["starter"](), threshold_on="train", mixture=rule, head=None, feature_size=size)
    single = GaussianMixture(np.ones(1, np.float32), mixture.means[:1], np.ones((1, size), np.float32))
    sweep = {
        1: SweptMixture(mixture, "fit full K=1", ("fit",), 12.5, 0.04),
        4: SweptMixture(single, "fit diag K=4", ("fit",), -3.25, 0.5),
    }
    return EvaluatedRun(
        run=run,
        results=run,
        recipe=recipe,
        precision="int8",
        load_role=roles.__getitem__,
        mixture=mixture,
        sweep=sweep,
        engines={"fp32": engine, "int8": engine},
        threads=1,
        pretext={"iso": Rate(0.6, 0.45, 0.7, 16)},
    )


def average_colours(crops: Crop) -> np.ndarray:
    """Return the mean colours of an 8 x 8 grid as features to compare with."""
    return crops.reshape(len(crops), 8, 28, 8, 28, 3).mean(axis=(2, 4)).reshape(len(crops), -1).astype(np.float32)


@pytest.fixture(scope="package")
def report(evaluated: EvaluatedRun, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The evaluation's report, with other features and another run to compare with."""
    other = tmp_path_factory.mktemp("other")
    outcome = {"accuracy": 0.5, "average_precision": 0.25, "auc": 0.125, "count": 8}
    facts = {
        "run": {"recipe": "exif_only", "tasks": "EXIF", "mixture": "full K=12"},
        "comparable": {"average": outcome},
    }
    (other / "evaluation.json").write_text(json.dumps(facts))
    comparisons = Comparisons(features={"colours": average_colours}, runs={"before": other})
    return measure_run(evaluated, pictures, comparisons, Console(file=io.StringIO()))


@pytest.fixture(scope="session")
def pillow_bilinear() -> Callable[[np.ndarray, int, int], np.ndarray]:
    """Pillow's bilinear resize to a height and a width, within two grey levels: a triangle, columns first."""

    def weigh(old: int, new: int) -> np.ndarray:
        centres, pixels = (np.arange(new) + 0.5) * old / new, np.arange(old) + 0.5
        weights = np.maximum(0, 1 - np.abs(pixels - centres[:, None]) / max(old / new, 1))
        return weights / weights.sum(1, keepdims=True)

    def resize(picture: np.ndarray, height: int, width: int) -> np.ndarray:
        columns = np.floor(weigh(picture.shape[1], width) @ picture + 0.5)
        return np.floor(np.tensordot(weigh(picture.shape[0], height), columns, 1) + 0.5)

    return resize
