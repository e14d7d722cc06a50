"""The step `unlensed-train export`: the bundle of one run folder."""

import json
import platform
import shutil
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np

from ingest.dali import FaceCropper
from ingest.device import DeviceUnavailable
from ingest.probe import EncodedFace, probe_image
from ingest.spec import FaceBox, PreprocessSpec
from scorer.bundle.arrays import write_arrays
from scorer.bundle.bundle import list_files, read_bundle, write_manifest
from scorer.bundle.calibration import load_calibration, make_manifest_fields
from scorer.bundle.manifest import PlanRule, Target
from scorer.engines.tensorrt.build import BUILDERS, build_plan
from scorer.engines.tensorrt.trtexec import describe_command
from scorer.errors import PlanBuilderMissing
from scorer.fitting.calibrate import choose_golden_tolerance
from scorer.mixture import log_likelihood, stack_mixture
from scorer.strata import Stratum
from training.data import detector
from training.data.shards import load_role
from training.evaluation.card import write_card
from training.evaluation.run import read_report
from training.evaluation.run_facts import RunFacts
from training.evaluation.stated import state_evaluation
from training.exif_heads import choose_photographs, find_weights, write_exif_heads
from training.export.features import extract_features
from training.export.golden import draw_golden_images
from training.export.onnx_features import describe_runtime
from training.export.target import INPUT_TENSOR, OUTPUT_TENSOR, Deployment
from training.export.torch_tensorrt_plan import build_from_network
from training.export.triton_repository import write_repository
from training.recipes import Recipe
from training.steps import MIXTURE, find_deployment, load_extractor, read_mixture

TOOLS: dict[Target, tuple[str, ...]] = {
    "openvino": ("torch", "openvino", "nncf"),
    "tensorrt": ("torch", "onnx", "onnxscript", "nvidia-dali-cuda130"),
}
PLAN_NOTE = (
    "Build with the TensorRT version that serves (10.15 or newer; 11 accepts --stronglyTyped but does not need it), on "
    "the GPU model that serves. `unlensed bundle build` does this and also writes build.json; this command does not."
)


def write_golden(results: Path, engine: Path, spec: PreprocessSpec, threads: int) -> None:
    """Write `golden.npz` into a deployment's `results`: pictures, boxes, and the engine's features and scores."""
    images, boxes = draw_golden_images()
    faces = [
        EncodedFace.around(data, probe_image(data), FaceBox(*map(float, box)), spec)
        for data, box in zip(images, boxes, strict=True)
    ]
    crops = np.stack(FaceCropper(spec, threads, len(faces)).crop(faces))  # type: ignore[arg-type]  # each picture is valid and contains its box
    mixture = read_mixture(results / MIXTURE)
    features = extract_features(engine, crops, threads, mixture.means.shape[1])
    write_arrays(
        results / "golden.npz",
        {
            "pictures": np.frombuffer(b"".join(images), dtype=np.uint8),
            "lengths": np.array([len(data) for data in images]),
            "boxes": boxes,
            "features": features,
            "log_likelihoods": log_likelihood(features, stack_mixture(mixture)).astype(np.float64),
        },
    )


def write_bundle(run: Path, recipe: Recipe, deployment: Deployment, threads: int, data_licence: str = "") -> Path:
    """Assemble the deployment's bundle from the results of the steps and return its folder.

    Args:
        run: folder that was fitted, calibrated and evaluated.
        recipe: of the run.
        deployment: the engine.
        threads: of the engine.
        data_licence: what the photographs are and their terms, one sentence; empty if it is not known.

    Raises:
        FileNotFoundError: a step has not been run.
    """
    deployment = find_deployment(run, deployment)
    results, engine = deployment.results(run), deployment.engine(run)
    if not (results / "calibration.json").is_file():
        message = f"{results} has no calibration.json: run `unlensed-train calibrate` first"
        raise FileNotFoundError(message)
    measured = find_report(run, deployment)
    report = read_report(measured)
    facts = RunFacts.read(run, data_licence)
    folder = results / "bundle"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(engine.parents[1], folder / "face_extractor")
    detector.copy_detector(folder)
    components, features = read_mixture(results / MIXTURE).means.shape
    write_repository(folder, recipe.preprocess, features, deployment)
    write_golden(results, engine, recipe.preprocess, threads)
    for name in (MIXTURE, "calibration.npz", "golden.npz"):
        shutil.copyfile(results / name, folder / name)
    calibration = load_calibration(results / "calibration.npz")
    calibrated = json.loads((results / "calibration.json").read_text(encoding="utf-8"))
    created = datetime.now(UTC).date().isoformat()
    infix = "" if deployment.target == "openvino" else f"{deployment.target}-{deployment.precision}-"
    bundle_id = f"{recipe.name}-{infix}{created}"
    write_card(folder / "MODEL_CARD.md", facts, recipe, bundle_id, deployment, report, results)
    held_out = load_role(run, "calibrate")
    held_out = held_out.select(choose_photographs(held_out, recipe))
    if len(held_out) and deployment.target == "openvino":  # explanations need the engine of the CPU
        embedded = extract_features(engine, held_out.crops, threads, features)
        with (folder / "MODEL_CARD.md").open("a", encoding="utf-8") as card:
            card.write(write_exif_heads(folder, find_weights(run, recipe, threads), embedded, held_out))
    fields: dict[str, object] = {
        "bundle_id": bundle_id,
        "licence": facts.describe_licence(recipe),
        **describe_engine(deployment, recipe.preprocess, features),
        "detector": detector.SPEC,
        "mixture_components": components,
        **make_manifest_fields(
            calibration,
            calibrated["photographs"],
            {Stratum(name): part["photographs"] for name, part in calibrated["strata"].items()},
        ),
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
        "evaluation": state_evaluation(report, through_openvino=measured != results),
    }
    write_manifest(
        folder,
        fields,
        {
            path: detector.LICENCE if path in detector.SPEC.files else facts.describe_licence(recipe)
            for path in list_files(folder)
        },
    )
    return folder


def find_report(run: Path, deployment: Deployment) -> Path:
    """Return the folder of the evaluation for a bundle: the deployment's own, or else that of the OpenVINO engine.

    Raises:
        FileNotFoundError: neither was evaluated.
    """
    for folder in (deployment.results(run), run):
        if (folder / "evaluation.json").is_file():
            return folder
    target = "" if deployment.target == "openvino" else f" --target {deployment.target}"
    message = f"{deployment.results(run)} has no evaluation.json: run `unlensed-train evaluate{target}` first"
    raise FileNotFoundError(message)


def add_plan(run: Path, folder: Path, recipe: Recipe) -> str:
    """Build the plan of the bundle in `folder` if this machine can; return what was done.

    Raises:
        BundleMismatch: TensorRT refuses the network; the bundle is complete without a plan.
    """
    from_network = partial(build_from_network, partial(load_extractor, run, recipe))
    try:
        plan, why = build_plan(read_bundle(folder), {"torch_tensorrt": from_network, **BUILDERS})
    except (DeviceUnavailable, PlanBuilderMissing) as obstacle:
        return f"no plan yet ({obstacle}): run `unlensed bundle build {folder}` on the GPU that serves"
    build = plan.build
    reason = f" ({why})" if why else ""
    return f"{plan.path}: built by {build.builder} for {build.gpu} and TensorRT {build.version} only{reason}"


def describe_engine(deployment: Deployment, spec: PreprocessSpec, feature_size: int) -> dict[str, object]:
    """Return the manifest's fields of an engine and, for a GPU, of the build of its plan."""
    fields: dict[str, object] = {
        "target": deployment.target,
        "preprocess": spec,
        "extractor": deployment.graph,
        "input_tensor": INPUT_TENSOR,
        "output_tensor": OUTPUT_TENSOR,
        "feature_size": feature_size,
        "precision": deployment.precision,
    }
    if deployment.target == "tensorrt":
        fields["plan"] = PlanRule(
            batches=deployment.batches,
            command=describe_command(deployment.graph, INPUT_TENSOR, spec.size, deployment.batches),
            note=PLAN_NOTE,
            features_by=describe_runtime(),
        )
    return fields
