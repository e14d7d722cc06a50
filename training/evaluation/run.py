"""Evaluate one run folder and write `evaluation.json`, the charts and `evaluation.html`."""

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

from scorer.bundle.calibration import load_calibration
from scorer.commands.progress import Progress
from scorer.engines.onnx_runtime import onnxruntime
from training.evaluation.drift import compare_engines
from training.evaluation.evaluate import (
    Evaluation,
    EvaluationFaces,
    HeldOutPhotographs,
    compare_by_protocol,
    compare_components,
    compare_features,
    describe_comparison,
    list_compared_roles,
)
from training.evaluation.face_scorer import FaceScorer
from training.evaluation.generated import CutPictures, list_generators
from training.evaluation.inputs import Comparisons, EvaluatedRun, compare_whole_pictures, cut_folders
from training.evaluation.operating_points import MIN_SOURCES, name_photographs
from training.evaluation.report import write_report
from training.evaluation.robustness import EQUAL_PX, EQUAL_QUALITY
from training.recipes import Recipe


def read_report(results: Path) -> dict[str, Any]:
    """Return the `evaluation.json` of a folder of results.

    Raises:
        FileNotFoundError: there is none.
    """
    path = results / "evaluation.json"
    if not path.is_file():
        message = f"{path} does not exist: run `unlensed-train evaluate` first"
        raise FileNotFoundError(message)
    report: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return report


def read_held_out(results: Path) -> HeldOutPhotographs:
    """Return the calibration in a folder of results.

    Raises:
        FileNotFoundError: there is none.
    """
    path = results / "calibration.json"
    if not path.is_file():
        message = f"{path} does not exist: run `unlensed-train calibrate` first"
        raise FileNotFoundError(message)
    stated: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    photographs = {"all": stated["photographs"]}
    photographs |= {name: part["photographs"] for name, part in stated["strata"].items() if part["used"]}
    return HeldOutPhotographs(load_calibration(results / "calibration.npz"), photographs)


def name_tasks(recipe: Recipe) -> str:
    """Return the names of the pretext tasks that the recipe trains."""
    weights = {"EXIF": recipe.losses.ranking_weight, "face": recipe.losses.manipulation_weight}
    return " and ".join(name for name, weight in weights.items() if weight > 0)


def measure_run(evaluated: EvaluatedRun, generated: Path, comparisons: Comparisons, console: Console) -> dict[str, Any]:
    """Measure a run on its role `test` and on generated pictures; write `evaluation.json`, charts and the report.

    Args:
        evaluated: the run.
        generated: folder with one folder of pictures for each generator.
        comparisons: optional data to compare with.
        console: shows progress.

    Raises:
        FileNotFoundError: a role, a generator, the photographs or the report of another run is missing or empty.
    """
    started = time.monotonic()
    run, recipe, results = evaluated.run, evaluated.recipe, evaluated.results
    fit = json.loads((results / "fit.json").read_text(encoding="utf-8"))
    held_out = read_held_out(results)
    ablations = {name: read_report(folder) for name, folder in comparisons.runs.items()}
    if recipe.test_crop == "image" and comparisons.photographs is None:
        message = f"the recipe {recipe.name} compares whole pictures: give --photographs, a folder with fit/ and test/"
        raise FileNotFoundError(message)
    folders = list_generators(generated)
    roles = {"calibrate", "test"}
    if recipe.threshold_on == "train":
        roles |= {role for swept in evaluated.sweep.values() for role in swept.roles} | set(fit["roles"])
    if comparisons.features:
        roles |= set(list_compared_roles(recipe))
    with TemporaryDirectory(prefix="evaluate-", dir=run) as scratch:
        faces = cut_folders(folders, "face", evaluated, Path(scratch), console)
        pictures = EvaluationFaces(
            {role: evaluated.load_role(role) for role in sorted(roles)},
            {name: cut.crops for name, cut in faces.items()},
        )
        load = partial(FaceScorer, mixture=evaluated.mixture, threads=evaluated.threads)
        scorer = load(evaluated.engines[evaluated.precision])
        test = evaluated.load_role("test")
        origins = test.sources, test.photos
        served = Evaluation(scorer, recipe.preprocess, held_out, test, origins, faces)
        sections, evidence = served.evaluate(console)
        if recipe.test_crop == "image" and comparisons.photographs is not None:
            comparison = compare_whole_pictures(
                scorer, evaluated, (comparisons.photographs, folders), Path(scratch), console
            )
        else:
            comparison = compare_by_protocol(scorer.log_likelihoods, pictures, fit["roles"], recipe)
        calibrate = pictures.photographs["calibrate"]
        with Progress("comparing", len(evaluated.engines), "engines", console, summary=True) as progress:
            engines = compare_engines(evaluated.engines, load, test.crops, calibrate.crops, progress.advance)
        report: dict[str, Any] = sections | {
            "comparable": describe_comparison(comparison, recipe),
            "features": {
                name: describe_comparison(compare_features(extract, pictures, recipe), recipe)
                for name, extract in comparisons.features.items()
            },
            "ablations": {
                name: {section: other[section] for section in ("run", "comparable")}
                for name, other in ablations.items()
            },
            "components": compare_components(scorer, pictures, evaluated.sweep, recipe),
            "engines": engines,
            "pretext": {task: asdict(rate) for task, rate in evaluated.pretext.items()},
        }
        report["run"] = describe_run(evaluated, fit, pictures, faces) | {"seconds": round(time.monotonic() - started)}
    (results / "evaluation.json").write_text(json.dumps(report, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    with Progress("writing", 1, "report", console, summary=True) as progress:
        write_report(results, report, evidence)
        progress.advance()
    return report


def describe_run(
    evaluated: EvaluatedRun, fit: Mapping[str, Any], pictures: EvaluationFaces, faces: Mapping[str, CutPictures]
) -> dict[str, Any]:
    """Return the facts of the evaluation: the run, its faces, the versions of its tools."""
    test = pictures.photographs["test"]
    on_onnx = evaluated.engines["fp32"].suffix == ".onnx"
    return {
        "recipe": evaluated.recipe.name,
        "tasks": name_tasks(evaluated.recipe),
        "precision": evaluated.precision,
        "selection": fit.get("selection", ""),
        "mixture": fit["shape"],
        "components": len(evaluated.mixture.weights),
        "fitted_roles": fit["roles"],
        "fitted_faces": fit["faces"],
        "calibration_faces": len(pictures.photographs["calibrate"].crops),
        "test_faces": len(test.crops),
        "test_photographs": len(np.unique(name_photographs(test.sources, test.photos))),
        "test_sources": len(np.unique(test.sources)),
        "intervals_by": "source" if len(np.unique(test.sources)) >= MIN_SOURCES else "photograph",
        "equal_format": f"face {EQUAL_PX} px, JPEG {EQUAL_QUALITY}",
        "generated": {
            name: {"pictures": cut.pictures, "faces": len(cut.crops), "dropped": cut.dropped}
            for name, cut in faces.items()
        },
        "threads": evaluated.threads,
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {
            **{name: version(name) for name in ("unlensed", "numpy", "scikit-learn")},
            **({"onnxruntime": onnxruntime.__version__} if on_onnx else {"openvino": version("openvino")}),
        },
    }
