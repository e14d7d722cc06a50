"""A whole evaluation of one run folder: pictures in, `evaluation.json`, figures and `evaluation.html` out."""

import json
import time
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from rich.console import Console

from scorer.commands.progress import Progress
from training.evaluation.drift import compare_engines
from training.evaluation.evaluate import (
    Pictures,
    compare,
    compare_features,
    describe_comparison,
    evaluate_faces,
    list_compared_roles,
)
from training.evaluation.face_scorer import FaceScorer
from training.evaluation.generated import CutPictures, list_generators
from training.evaluation.inputs import Extras, Subject, compare_whole, cut_folders
from training.evaluation.report import write_report
from training.evaluation.robustness import MAX_FACES as ROBUSTNESS_FACES
from training.recipes import Recipe


def read_report(run: Path) -> dict[str, Any]:
    """Return the `evaluation.json` of `run`.

    Raises:
        FileNotFoundError: there is none.
    """
    path = run / "evaluation.json"
    if not path.is_file():
        message = f"no {path}: run `unlensed-train evaluate {run}` first"
        raise FileNotFoundError(message)
    report: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return report


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
    fit = json.loads((run / "fit.json").read_text(encoding="utf-8"))
    ablations = {name: read_report(folder) for name, folder in extras.runs.items()}
    if recipe.test_crop == "image" and extras.photographs is None:
        message = f"the recipe {recipe.name} compares whole pictures: name a folder with photographs/fit and /test"
        raise FileNotFoundError(message)
    folders = list_generators(generated)
    roles = {"calibrate", "test"} | (set(fit["roles"]) if recipe.threshold_on == "train" else set())
    if extras.features:
        roles |= set(list_compared_roles(recipe))
    with TemporaryDirectory(prefix="evaluate-", dir=run) as scratch:
        faces = cut_folders(folders, "face", subject, Path(scratch), console)
        pictures = Pictures(
            {role: subject.load_role(role) for role in sorted(roles)},
            {name: cut.crops for name, cut in faces.items()},
        )
        load = partial(FaceScorer, mixture=subject.mixture, threads=subject.threads)
        scorer = load(subject.engines[recipe.precision])
        sections, evidence = evaluate_faces(scorer, pictures, console)
        if recipe.test_crop == "image" and extras.photographs is not None:
            comparison = compare_whole(scorer, subject, (extras.photographs, folders), Path(scratch), console)
        else:
            comparison = compare(scorer.log_likelihoods, pictures, fit["roles"], recipe)
        test, held_out = pictures.photographs["test"], pictures.photographs["calibrate"]
        with Progress("comparing", len(subject.engines), "engines", console, summary=True) as progress:
            engines = compare_engines(subject.engines, load, test.crops, held_out.crops, progress.advance)
        report: dict[str, Any] = sections | {
            "comparable": describe_comparison(comparison, recipe),
            "features": {
                name: describe_comparison(compare_features(extract, pictures, recipe), recipe)
                for name, extract in extras.features.items()
            },
            "ablations": {
                name: {section: other[section] for section in ("run", "comparable")}
                for name, other in ablations.items()
            },
            "engines": engines,
            "pretext": {task: asdict(rate) for task, rate in subject.pretext.items()},
        }
        report["run"] = describe_run(subject, fit, pictures, faces) | {"seconds": round(time.monotonic() - started)}
    (run / "evaluation.json").write_text(json.dumps(report, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    with Progress("writing", 1, "report", console, summary=True) as progress:
        write_report(run, report, evidence)
        progress.advance()
    return report


def describe_run(
    subject: Subject, fit: Mapping[str, Any], pictures: Pictures, faces: Mapping[str, CutPictures]
) -> dict[str, Any]:
    """Return what was evaluated, on what, with what."""
    test = pictures.photographs["test"]
    return {
        "recipe": subject.recipe.name,
        "tasks": name_tasks(subject.recipe),
        "precision": subject.recipe.precision,
        "mixture": fit["shape"],
        "fitted_roles": fit["roles"],
        "fitted_faces": fit["faces"],
        "calibration_faces": len(pictures.photographs["calibrate"].crops),
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
