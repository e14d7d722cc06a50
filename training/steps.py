"""The steps after training: engine, mixture, calibration, evaluation and bundle of one run folder."""

import json
import platform
import shutil
import time
from dataclasses import replace
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
from scorer.bundle.bundle import list_files, write_manifest
from scorer.bundle.calibration import load_calibration, make_manifest_fields, write_calibration
from scorer.bundle.manifest import PlanRule, Target
from scorer.commands.progress import Progress
from scorer.commands.terminal import Terminal
from scorer.decide import Calibration
from scorer.engines.tensorrt.trtexec import describe_command
from scorer.fitting.calibrate import choose_golden_tolerance, describe_calibration, score_held_out
from scorer.fitting.em import EmProgress
from scorer.fitting.fit import choose_array_module, choose_mixture, describe_shape
from scorer.mixture import GaussianMixture, log_likelihood, stack_mixture
from training.data import detector
from training.data.shards import load_role
from training.evaluation.card import LICENCE, write_card
from training.evaluation.inputs import Comparisons, EvaluatedRun
from training.evaluation.pretext import measure_pretext
from training.evaluation.run import measure_run, read_report
from training.evaluation.stated import state_evaluation
from training.export.features import extract_features
from training.export.golden import draw_golden_images
from training.export.onnx import export_onnx
from training.export.onnx_features import describe_runtime
from training.export.openvino import export_extractor
from training.export.target import INPUT_TENSOR, OUTPUT_TENSOR, PRECISIONS, Deployment
from training.export.torch_tensorrt_plan import build_plan_of_network, find_obstacle
from training.export.triton_repository import write_repository
from training.pretext.checkpoints import load_checkpoint
from training.pretext.network import FEATURE_SIZE, build_network
from training.recipes import Recipe

QUANTISATION_FACES = 192
TOOLS: dict[Target, tuple[str, ...]] = {
    "openvino": ("torch", "openvino", "nncf"),
    "tensorrt": ("torch", "onnx", "onnxscript", "nvidia-dali-cuda130"),
}
PLAN_NOTE = (
    "Build with the TensorRT version that serves (10.15 or newer; 11 accepts --stronglyTyped but does not need it), on "
    "the GPU model that serves. `unlensed bundle build` does this and also writes build.json; this command does not."
)


def build_engine(run: Path, recipe: Recipe, deployment: Deployment) -> Path:
    """Export the run's best checkpoint for `deployment`. Training photographs give the quantisation ranges."""
    network = build_network(recipe)
    load_checkpoint(run / "best.safetensors", network)
    crops = load_role(run, "train").crops
    chosen = np.random.default_rng(0).permutation(len(crops))[:QUANTISATION_FACES]
    export = export_extractor if deployment.target == "openvino" else export_onnx
    folder = deployment.engine(run).parents[2]
    return export(network.extractor, folder, deployment.precision, crops[chosen])


def fit_run(
    run: Path, recipe: Recipe, deployment: Deployment, threads: int, console: Console | None = None
) -> dict[str, object]:
    """Fit the mixture on the engine's features of the recipe's roles; write `mixture.npz` and `fit.json`.

    Args:
        run: folder with the faces and the engine.
        recipe: names the candidates and the roles.
        deployment: the engine.
        threads: of the engine.
        console: shows progress; stderr by default.

    Raises:
        ValueError: too few faces or sources for any candidate.
    """
    console = console or Terminal(stderr=True)
    roles = sorted({role for roles in recipe.mixture.role_sets for role in roles} | {"fit"})
    faces = {role: load_role(run, role) for role in roles}
    engine, results = deployment.engine(run), deployment.results(run)
    features = {role: extract_features(engine, faces[role].crops, threads) for role in roles}
    xp, device = choose_array_module()
    started = time.perf_counter()
    sources = {role: faces[role].sources for role in roles}
    with Progress("fitting", None, "iterations", console) as progress:
        fitted = choose_mixture(features, sources, recipe.mixture, xp, partial(show_iteration, progress))
    seconds = time.perf_counter() - started
    mixture = fitted.mixture
    np.savez_compressed(
        results / "mixture.npz",
        weights=mixture.weights,
        means=mixture.means,
        precisions_cholesky=mixture.precisions_cholesky,
    )
    summary: dict[str, object] = {
        "precision": deployment.precision,
        "shape": describe_shape(fitted.shape),
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
    (results / "fit.json").write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    return summary


def show_iteration(progress: Progress, mixture: str, em: EmProgress) -> None:
    """Show one EM iteration. The iterations of the next mixture start from 1 again."""
    if em.iteration <= progress.done:
        progress.begin(None)
    progress.advance(em.iteration - progress.done, mixture=mixture, bound_nats=round(em.bound_nats, 4))


def read_mixture(results: Path) -> GaussianMixture:
    """Read the mixture that `fit_run` wrote into a deployment's results.

    Raises:
        FileNotFoundError: `fit` has not been run.
    """
    with np.load(results / "mixture.npz", allow_pickle=False) as arrays:
        return GaussianMixture(**{name: arrays[name] for name in arrays.files})


def find_deployment(run: Path, wanted: Deployment) -> Deployment:
    """Return `wanted` at the precision of the run's `fit.json`; for OpenVINO a run has one precision only.

    Raises:
        FileNotFoundError: `fit` has not been run for this target.
    """
    path = wanted.results(run) / "fit.json"
    if not path.exists():
        message = f"{path.parent} has no fit.json: run `unlensed-train fit` first"
        message += "" if wanted.target == "openvino" else f", with --target {wanted.target}"
        raise FileNotFoundError(message)
    return replace(wanted, precision=json.loads(path.read_text(encoding="utf-8"))["precision"])


def calibrate_run(run: Path, deployment: Deployment, threads: int) -> dict[str, object]:
    """Score the role `calibrate` with the fitted engine; write `calibration.npz` and `calibration.json`.

    Returns:
        The content of `calibration.json`: thresholds with their intervals, and the rates that n cannot support.

    Raises:
        FileNotFoundError: `fit` has not been run.
        ValueError: a face has no finite log-likelihood.
    """
    deployment = find_deployment(run, deployment)
    results = deployment.results(run)
    faces = load_role(run, "calibrate")
    features = extract_features(deployment.engine(run), faces.crops, threads)
    values = score_held_out(read_mixture(results), features)
    write_calibration(results / "calibration.npz", Calibration(np.sort(values)))
    report = describe_calibration(values, faces.photos)
    (results / "calibration.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return report


def evaluate_run(
    run: Path, generated: Path, recipe: Recipe, threads: int, comparisons: Comparisons | None = None
) -> dict[str, object]:
    """Measure the run on the role `test` and on generated pictures; write `evaluation.json` and `evaluation.html`.

    Args:
        run: folder that was prepared, trained, fitted and calibrated.
        generated: folder with one folder of pictures for each generator.
        recipe: of the run.
        threads: CPU threads.
        comparisons: other features, other runs and whole photographs to compare with.

    Raises:
        FileNotFoundError: an earlier step has not been run, or a folder is missing or empty.
    """
    checkpoint = run / "best.safetensors"
    engines: dict[str, Path] = {}
    for precision in PRECISIONS["openvino"]:
        deployment = Deployment("openvino", precision)
        built = engines[precision] = deployment.engine(run)
        if not built.exists() or built.stat().st_mtime < checkpoint.stat().st_mtime:
            build_engine(run, recipe, deployment)
    pretext = measure_pretext(checkpoint, load_role(run, "test"), recipe)
    evaluated = EvaluatedRun(run, recipe, partial(load_role, run), read_mixture(run), engines, threads, pretext)
    return measure_run(evaluated, generated, comparisons or Comparisons(), Terminal(stderr=True))


def write_golden(results: Path, engine: Path, threads: int) -> None:
    """Write `golden.npz` into a deployment's `results`: pictures, boxes, and the engine's features and scores."""
    spec = PreprocessSpec()
    images, boxes = draw_golden_images()
    faces = [
        EncodedFace.around(data, probe_image(data), FaceBox(*map(float, box)), spec)
        for data, box in zip(images, boxes, strict=True)
    ]
    crops = np.stack(FaceCropper(spec, threads, len(faces)).crop(faces))  # type: ignore[arg-type]  # each picture is valid and contains its box
    features = extract_features(engine, crops, threads)
    np.savez_compressed(
        results / "golden.npz",
        pictures=np.frombuffer(b"".join(images), dtype=np.uint8),
        lengths=np.array([len(data) for data in images]),
        boxes=boxes,
        features=features,
        log_likelihoods=log_likelihood(features, stack_mixture(read_mixture(results))).astype(np.float64),
    )


def write_bundle(run: Path, recipe: Recipe, deployment: Deployment, threads: int) -> Path:
    """Assemble the deployment's bundle from the results of the steps and return its folder.

    Raises:
        FileNotFoundError: a step has not been run.
    """
    deployment = find_deployment(run, deployment)
    results, engine = deployment.results(run), deployment.engine(run)
    folder = results / "bundle"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(engine.parents[1], folder / "face_extractor")
    detector.copy_detector(folder, DetectorSpec())
    write_repository(folder, PreprocessSpec(), FEATURE_SIZE, deployment)
    write_golden(results, engine, threads)
    for name in ("mixture.npz", "calibration.npz", "golden.npz"):
        shutil.copyfile(results / name, folder / name)
    calibration = load_calibration(results / "calibration.npz")
    calibrated = json.loads((results / "calibration.json").read_text(encoding="utf-8"))
    created = datetime.now(UTC).date().isoformat()
    infix = "" if deployment.target == "openvino" else f"{deployment.target}-{deployment.precision}-"
    bundle_id = f"{recipe.name}-{infix}{created}"
    write_card(run, folder / "MODEL_CARD.md", recipe, bundle_id, deployment)
    fields: dict[str, object] = {
        "bundle_id": bundle_id,
        "licence": LICENCE["bundle"],
        **describe_engine(deployment),
        "detector": DetectorSpec(),
        "mixture_components": len(read_mixture(results).weights),
        **make_manifest_fields(calibration, calibrated["photographs"], {}),
        "golden_tolerance_nats": choose_golden_tolerance(calibration.pooled),
        "provenance": {
            "created_at": created,
            "recipe": recipe.name,
            "data": {role: str(len(load_role(run, role))) for role in ("train", "fit", "calibrate", "test")},
            "tools": {
                "python": platform.python_version(),
                **{name: version(name) for name in (*TOOLS[deployment.target], "scikit-learn")},
            },
        },
        "evaluation": state_evaluation(read_report(run), through_openvino=deployment.target != "openvino"),
    }
    write_manifest(
        folder,
        fields,
        {path: LICENCE["detector" if path in DetectorSpec().files else "bundle"] for path in list_files(folder)},
    )
    return folder


def add_plan(run: Path, folder: Path, recipe: Recipe, deployment: Deployment) -> str:
    """Build the plan of the bundle in `folder` from the network if this machine can; return what was done.

    Raises:
        BundleMismatch: the plan differs from the manifest; the bundle is complete without it.
    """
    if obstacle := find_obstacle(deployment):
        return f"no plan yet ({obstacle}): run `unlensed bundle build {folder}` on the GPU that serves"
    network = build_network(recipe)
    load_checkpoint(run / "best.safetensors", network)
    plan = build_plan_of_network(network.extractor, folder, deployment)
    return f"{plan.path}: built by Torch-TensorRT for {plan.build.gpu} and TensorRT {plan.build.version} only"


def describe_engine(deployment: Deployment) -> dict[str, object]:
    """Return the manifest's fields of an engine and, for a GPU, of the build of its plan."""
    fields: dict[str, object] = {
        "target": deployment.target,
        "preprocess": PreprocessSpec(),
        "extractor": deployment.graph,
        "input_tensor": INPUT_TENSOR,
        "output_tensor": OUTPUT_TENSOR,
        "feature_size": FEATURE_SIZE,
        "precision": deployment.precision,
    }
    if deployment.target == "tensorrt":
        fields["plan"] = PlanRule(
            batches=deployment.batches,
            command=describe_command(deployment.graph, INPUT_TENSOR, PreprocessSpec().size, deployment.batches),
            note=PLAN_NOTE,
            features_by=describe_runtime(),
        )
    return fields
