"""A whole evaluation of one run folder: pictures in, `evaluation.json`, figures and `evaluation.html` out."""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from rich.console import Console

from ingest.detect import DetectorSpec, load_detector
from scorer.mixture import GaussianMixture
from training.data.shards import load_role
from training.evaluation.drift import compare_engines
from training.evaluation.evaluate import (
    Extract,
    Pictures,
    compare_features,
    describe_comparison,
    evaluate_faces,
)
from training.evaluation.face_scorer import FaceScorer
from training.evaluation.generated import CutPictures, Part, PictureCutter, list_generators, list_pictures
from training.evaluation.progress import track
from training.evaluation.protocol import MAX_FACES
from training.evaluation.report import write_report
from training.evaluation.robustness import MAX_FACES as ROBUSTNESS_FACES
from training.recipes import Recipe


@dataclass(frozen=True, slots=True)
class Subject:
    """What is evaluated.

    Attributes:
        run: folder that was prepared, trained, fitted and calibrated.
        recipe: of the run.
        mixture: what `fit` wrote.
        engines: exported graph by precision, the recipe's and "fp32" among them.
        threads: CPU threads.
    """

    run: Path
    recipe: Recipe
    mixture: GaussianMixture
    engines: Mapping[str, Path]
    threads: int


@dataclass(frozen=True, slots=True)
class Extras:
    """What stands beside the run, all of it optional.

    Attributes:
        photographs: pictures to compare as a whole, for recipes that do not compare faces.
        features: other features by name, for Table II.
        runs: folders of evaluated runs by name, for Table III.
    """

    photographs: Path | None = None
    features: Mapping[str, Extract] = field(default_factory=dict)
    runs: Mapping[str, Path] = field(default_factory=dict)


def read_report(run: Path) -> dict[str, Any]:
    """Return the `evaluation.json` of `run`.

    Raises:
        FileNotFoundError: there is none.
    """
    path = run / "evaluation.json"
    if not path.is_file():
        message = f"no {path}: run `unlensed-train evaluate {run}` first"
        raise FileNotFoundError(message)
    report: dict[str, Any] = json.loads(path.read_text())
    return report


def cut_folders(
    folders: Mapping[str, Path], part: Part, subject: Subject, scratch: Path, console: Console
) -> dict[str, CutPictures]:
    """Return the crops of each folder, cut as the recipe cuts faces.

    Raises:
        FileNotFoundError: a folder gives no crop.
    """
    detector = load_detector(subject.run, DetectorSpec(), subject.threads)
    cutter = PictureCutter(detector, subject.recipe.preprocess, part, subject.threads, scratch)
    total = sum(min(MAX_FACES, len(list_pictures(folder))) for folder in folders.values())
    with track(console, f"cutting {part}s of {', '.join(folders)}", total) as advance:
        cut = {name: cutter.cut(f"{part}-{name}", folder, advance) for name, folder in folders.items()}
    for name, pictures in cut.items():
        if not len(pictures.crops):
            message = f"no {part} was found in the {pictures.pictures} pictures of {folders[name]}: {pictures.dropped}"
            raise FileNotFoundError(message)
    return cut


def name_tasks(recipe: Recipe) -> str:
    """Return which pretext tasks the recipe trains."""
    weights = {"EXIF": recipe.losses.ranking_weight, "face": recipe.losses.manipulation_weight}
    return " and ".join(name for name, weight in weights.items() if weight > 0)


def evaluate_subject(subject: Subject, generated: Path, extras: Extras, console: Console) -> dict[str, Any]:
    """Measure a run on its role `test` and on generated pictures; write `evaluation.json`, figures and the report.

    Args:
        subject: what is evaluated.
        generated: one folder of pictures a generator.
        extras: what stands beside it.
        console: for progress.

    Raises:
        FileNotFoundError: a role, a generator, the photographs or another run's report is missing or empty.
    """
    started = time.monotonic()
    run, recipe = subject.run, subject.recipe
    fit = json.loads((run / "fit.json").read_text())
    ablations = {name: read_report(folder) for name, folder in extras.runs.items()}
    whole_photographs = extras.photographs
    if recipe.test_crop == "image" and whole_photographs is None:
        message = f"the recipe {recipe.name} compares whole pictures: name a folder of photographs to compare"
        raise FileNotFoundError(message)
    folders = list_generators(generated)
    roles = set(fit["roles"]) if recipe.threshold_on == "train" else set()
    if extras.features:
        roles |= {"fit"} | {role for roles in recipe.mixture.role_sets for role in roles}
    with TemporaryDirectory(prefix="evaluate-", dir=run) as scratch:
        faces = cut_folders(folders, "face", subject, Path(scratch), console)
        whole = None
        if recipe.test_crop == "image" and whole_photographs is not None:
            real = cut_folders({"photographs": whole_photographs}, "image", subject, Path(scratch), console)
            others = cut_folders(folders, "image", subject, Path(scratch), console)
            whole = real["photographs"].crops, {name: cut.crops for name, cut in others.items()}
        pictures = Pictures(
            fitting={role: load_role(run, role) for role in sorted(roles)},
            fitted_roles=tuple(fit["roles"]),
            held_out=load_role(run, "calibrate"),
            test=load_role(run, "test"),
            generated={name: cut.crops for name, cut in faces.items()},
            whole=whole,
        )
        load = partial(FaceScorer, mixture=subject.mixture, threads=subject.threads)
        sections, evidence = evaluate_faces(load(subject.engines[recipe.precision]), pictures, recipe, console)
        with track(console, "engines", len(subject.engines)) as advance:
            engines = compare_engines(subject.engines, load, pictures.test.crops, pictures.held_out.crops, advance)
        report: dict[str, Any] = sections | {
            "features": {
                name: describe_comparison(compare_features(extract, pictures, recipe), recipe)
                for name, extract in extras.features.items()
            },
            "ablations": {
                name: {section: other[section] for section in ("run", "comparable")}
                for name, other in ablations.items()
            },
            "engines": engines,
        }
        report["run"] = describe_run(subject, fit, pictures, faces) | {"seconds": round(time.monotonic() - started)}
    (run / "evaluation.json").write_text(json.dumps(report, indent=1, allow_nan=False) + "\n")
    with track(console, "report", 1) as advance:
        write_report(run, report, evidence)
        advance()
    return report


def describe_run(
    subject: Subject, fit: Mapping[str, Any], pictures: Pictures, faces: Mapping[str, CutPictures]
) -> dict[str, Any]:
    """Return what was evaluated, on what, with what."""
    test = pictures.test
    return {
        "recipe": subject.recipe.name,
        "tasks": name_tasks(subject.recipe),
        "precision": subject.recipe.precision,
        "mixture": fit["shape"],
        "fitted_roles": fit["roles"],
        "fitted_faces": fit["faces"],
        "calibration_faces": len(pictures.held_out.crops),
        "test_faces": len(test.crops),
        "test_photographs": len(np.unique(np.char.add(np.char.add(test.sources, "/"), test.photos))),
        "robustness_faces": ROBUSTNESS_FACES,
        "generated": {
            name: {"pictures": cut.pictures, "faces": len(cut.crops), "dropped": cut.dropped}
            for name, cut in faces.items()
        },
        "threads": subject.threads,
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {name: version(name) for name in ("unlensed", "numpy", "openvino", "scikit-learn")},
    }
