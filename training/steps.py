"""The steps after training, on one run folder: engine, mixture, calibration, evaluation, bundle."""

import json
import platform
import shutil
import time
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
from rich.console import Console

from ingest.dali import FaceCropper
from ingest.detect import DetectorSpec
from ingest.probe import EncodedFace, probe_image
from ingest.spec import FaceBox, PreprocessSpec
from scorer.bundle import list_files, write_manifest
from scorer.mixture import GaussianMixture, log_likelihood, stack_mixture
from scorer.progress import Progress
from training import detector
from training.data.shards import load_role
from training.evaluation.card import LICENCE, write_card
from training.evaluation.inputs import Extras, Subject
from training.evaluation.pretext import measure_pretext
from training.evaluation.run import evaluate_subject
from training.export import INPUT_TENSOR, MODEL_FILE, OUTPUT_TENSOR, PRECISIONS, export_extractor, write_repository
from training.features import extract_features
from training.golden import draw_golden_images
from training.mixture.calibrate import describe_calibration, name_calibration, score_held_out
from training.mixture.em import EmProgress
from training.mixture.fit import choose_mixture, describe, load_array_module
from training.pretext.checkpoints import load_checkpoint
from training.pretext.network import FEATURE_SIZE, build_network
from training.recipes import Precision, Recipe

QUANTISATION_FACES = 192
GOLDEN_SHARE_OF_SPREAD = 0.05  # of the interquartile range, which an outlier does not widen


def engine_path(run: Path, precision: str) -> Path:
    """Return where `build_engine` writes an engine of `precision`."""
    return run / "engine" / precision / MODEL_FILE


def build_engine(run: Path, recipe: Recipe, precision: Precision) -> Path:
    """Export the run's best checkpoint at `precision`; quantisation ranges come from training photographs."""
    network = build_network(recipe)
    load_checkpoint(run / "best.safetensors", network)
    crops = load_role(run, "train").crops
    chosen = np.random.default_rng(0).permutation(len(crops))[:QUANTISATION_FACES]
    return export_extractor(network.extractor, run / "engine" / precision, precision, crops[chosen])


def fit_run(run: Path, recipe: Recipe, threads: int, console: Console | None = None) -> dict[str, object]:
    """Fit the mixture on the recipe's roles through the engine; write `mixture.npz` and `fit.json`.

    Args:
        run: holds the faces and the engine.
        recipe: names candidates and roles.
        threads: of the engine.
        console: on stderr, for progress.

    Raises:
        ValueError: too few faces or sources for any candidate.
    """
    console = console or Console(stderr=True)
    roles = sorted({role for roles in recipe.mixture.role_sets for role in roles} | {"fit"})
    faces = {role: load_role(run, role) for role in roles}
    engine = engine_path(run, recipe.precision)
    features = {role: extract_features(engine, faces[role].crops, threads) for role in roles}
    xp, device = load_array_module("auto")
    started = time.perf_counter()
    sources = {role: faces[role].sources for role in roles}
    with Progress("fitting", None, "iterations", console) as progress:
        fitted = choose_mixture(features, sources, recipe.mixture, xp, partial(show_iteration, progress))
    seconds = time.perf_counter() - started
    mixture = fitted.mixture
    np.savez_compressed(
        run / "mixture.npz",
        weights=mixture.weights,
        means=mixture.means,
        precisions_cholesky=mixture.precisions_cholesky,
    )
    summary: dict[str, object] = {
        "precision": recipe.precision,
        "shape": describe(fitted.shape),
        "roles": list(fitted.roles),
        "faces": sum(len(features[role]) for role in fitted.roles),
        "held_out_nats": fitted.held_out_nats,
        "refused": fitted.refused,
        "bound_nats": fitted.em.bound_nats,
        "iterations": fitted.em.iterations,
        "converged": fitted.em.converged,
        "faces_by_component": [round(count, 1) for count in fitted.em.faces.tolist()],
        "notes": fitted.notes(),
        "device": device,
        "seconds": round(seconds, 1),
    }
    (run / "fit.json").write_text(json.dumps(summary, indent=1) + "\n")
    return summary


def show_iteration(progress: Progress, mixture: str, em: EmProgress) -> None:
    """Show an iteration of the mixture that is being fitted; the next mixture's start from 1 again."""
    if em.iteration <= progress.done:
        progress.begin(None)
    progress.advance(em.iteration - progress.done, mixture=mixture, bound_nats=round(em.bound_nats, 4))


def read_mixture(run: Path) -> GaussianMixture:
    """Read what `fit_run` wrote.

    Raises:
        FileNotFoundError: `fit` has not run.
    """
    with np.load(run / "mixture.npz", allow_pickle=False) as arrays:
        return GaussianMixture(**{name: arrays[name] for name in arrays.files})


def calibrate_run(run: Path, threads: int) -> dict[str, object]:
    """Score the role `calibrate` through the fitted engine; write `calibration.npz` and `calibration.json`.

    Returns:
        The content of `calibration.json`: thresholds with their intervals, and the rates that n cannot support.

    Raises:
        FileNotFoundError: `fit` has not run.
        ValueError: a face has no finite log-likelihood.
    """
    if not (run / "fit.json").exists():
        message = f"{run} has no fit.json: run `unlensed-train fit` first"
        raise FileNotFoundError(message)
    precision = json.loads((run / "fit.json").read_text())["precision"]
    faces = load_role(run, "calibrate")
    features = extract_features(engine_path(run, precision), faces.crops, threads)
    values = score_held_out(read_mixture(run), features)
    np.savez_compressed(run / "calibration.npz", log_likelihoods=np.sort(values))
    report = describe_calibration(values, faces.photos)
    (run / "calibration.json").write_text(json.dumps(report, indent=1) + "\n")
    return report


def evaluate_run(
    run: Path, generated: Path, recipe: Recipe, threads: int, extras: Extras | None = None
) -> dict[str, object]:
    """Measure the run on the role `test` and on generated pictures; write `evaluation.json` and `evaluation.html`.

    Args:
        run: folder that was prepared, trained, fitted and calibrated.
        generated: one folder of pictures a generator.
        recipe: of the run.
        threads: CPU threads.
        extras: other features, other runs, and photographs to compare as a whole.

    Raises:
        FileNotFoundError: an earlier step has not run, or a folder is missing or empty.
    """
    checkpoint = run / "best.safetensors"
    engines: dict[str, Path] = {}
    for precision in PRECISIONS:
        built = engines[precision] = engine_path(run, precision)
        if not built.exists() or built.stat().st_mtime < checkpoint.stat().st_mtime:
            build_engine(run, recipe, precision)
    pretext = measure_pretext(checkpoint, load_role(run, "test"), recipe)
    subject = Subject(run, recipe, partial(load_role, run), read_mixture(run), engines, threads, pretext)
    return evaluate_subject(subject, generated, extras or Extras(), Console(stderr=True))


def write_golden(run: Path, engine: Path, threads: int) -> None:
    """Write `golden.npz`: pictures, boxes, and the engine's answers to them."""
    spec = PreprocessSpec()
    images, boxes = draw_golden_images()
    faces = [
        EncodedFace.around(data, probe_image(data), FaceBox(*map(float, box)), spec)
        for data, box in zip(images, boxes, strict=True)
    ]
    crops = np.stack(FaceCropper(spec, threads, len(faces)).crop(faces))  # type: ignore[arg-type]  # each box lies inside its sound picture
    features = extract_features(engine, crops, threads)
    np.savez_compressed(
        run / "golden.npz",
        pictures=np.frombuffer(b"".join(images), dtype=np.uint8),
        lengths=np.array([len(data) for data in images]),
        boxes=boxes,
        features=features,
        log_likelihoods=log_likelihood(features, stack_mixture(read_mixture(run))).astype(np.float64),
    )


def write_bundle(run: Path, recipe: Recipe, threads: int) -> Path:
    """Assemble `run/bundle` from the steps' results and return it.

    Raises:
        FileNotFoundError: a step has not run yet.
    """
    folder, engine = run / "bundle", engine_path(run, recipe.precision)
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(engine.parents[1], folder / "face_extractor")
    detector.copy_detector(folder, DetectorSpec())
    write_repository(folder, PreprocessSpec(), FEATURE_SIZE)
    write_golden(run, engine, threads)
    for name in ("mixture.npz", "calibration.npz", "golden.npz"):
        shutil.copyfile(run / name, folder / name)
    with np.load(run / "calibration.npz", allow_pickle=False) as arrays:
        values = arrays["log_likelihoods"]
    created = datetime.now(UTC).date().isoformat()
    calibration_id, bundle_id = name_calibration(values), f"{recipe.name}-{created}"
    write_card(run, folder / "MODEL_CARD.md", recipe, bundle_id, len(values))
    mixture = read_mixture(run)
    write_manifest(
        folder,
        {
            "bundle_id": bundle_id,
            "licence": LICENCE["bundle"],
            "preprocess": PreprocessSpec(),
            "detector": DetectorSpec(),
            "extractor": MODEL_FILE,
            "input_tensor": INPUT_TENSOR,
            "output_tensor": OUTPUT_TENSOR,
            "feature_size": FEATURE_SIZE,
            "precision": recipe.precision,
            "mixture_components": len(mixture.weights),
            "calibration_id": calibration_id,
            "calibration_size": len(values),
            "golden_tolerance_nats": round(
                GOLDEN_SHARE_OF_SPREAD * float(np.subtract(*np.percentile(values, [75, 25]))), 2
            ),
            "provenance": {
                "created_at": created,
                "recipe": recipe.name,
                "data": {role: str(len(load_role(run, role))) for role in ("train", "fit", "calibrate", "test")},
                "tools": {
                    "python": platform.python_version(),
                    **{name: version(name) for name in ("torch", "openvino", "nncf", "scikit-learn")},
                },
            },
        },
        {path: LICENCE["detector" if path == DetectorSpec().file else "bundle"] for path in list_files(folder)},
    )
    return folder
