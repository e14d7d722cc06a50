"""A GPU bundle of a network without trained weights: for speed, and for the machinery around it."""

import shutil
from pathlib import Path

import numpy as np
from engines import export_graph
from networks import draw_crops
from part import ROOT, Part
from photographs import encode_face

from ingest.dali import FaceCropper
from ingest.spec import PreprocessSpec
from scorer.bundle.bundle import MANIFEST, Bundle, list_files, read_bundle, write_manifest
from scorer.bundle.manifest import BatchProfile, PlanRule
from scorer.mixture import GaussianMixture, log_likelihood, stack_mixture
from training.export.golden import draw_golden_images
from training.export.onnx_features import OnnxExtractor
from training.export.target import INPUT_TENSOR, OUTPUT_TENSOR, Deployment
from training.export.triton_repository import write_repository
from training.recipes import PAPER_FEATURES, Precision

COMPONENTS = 8
BATCHES = BatchProfile(min=1, opt=128, max=256)


def make_gpu_bundle(part: Part, network: str, precision: Precision) -> Bundle:
    """Write the bundle once for each report, with detector and calibration of the starter bundle, and read it."""
    folder = part.scratch.parent / "bundles" / f"{network}-{precision}"
    if (folder / MANIFEST).exists():
        return read_bundle(folder)
    shutil.rmtree(folder, ignore_errors=True)
    kept = shutil.ignore_patterns(MANIFEST, "face_extractor", "face_crops", "face_features")
    shutil.copytree(ROOT / "model_repository", folder, ignore=kept)
    deployment = Deployment("tensorrt", precision, BATCHES)
    graph = folder / deployment.graph
    graph.parent.mkdir(parents=True)
    shutil.copy(export_graph(part, network, precision), graph)
    write_repository(folder, PreprocessSpec(), PAPER_FEATURES, deployment)
    extractor = OnnxExtractor(graph, PAPER_FEATURES, threads=4)
    mixture = write_mixture(folder, embed(extractor, draw_crops(16, seed=11)))
    write_golden(folder, extractor, mixture)
    rule = PlanRule(
        batches=BATCHES, command="see scorer.engines.tensorrt.build", note="for a report", features_by="onnxruntime"
    )
    starter = read_bundle(ROOT / "model_repository").manifest
    fields = starter.model_dump(exclude={"schema_version", "files", "evaluation"}) | {
        "bundle_id": f"random-{precision}",
        "target": "tensorrt",
        "plan": rule,
        "extractor": deployment.graph,
        "input_tensor": INPUT_TENSOR,
        "output_tensor": OUTPUT_TENSOR,
        "feature_size": PAPER_FEATURES,
        "precision": precision,
        "mixture_components": COMPONENTS,
        "golden_tolerance_nats": 1000.0,  # reported without a bound: nothing here was trained
    }
    write_manifest(folder, fields, dict.fromkeys(list_files(folder), "random weights"))
    return read_bundle(folder)


def embed(extractor: OnnxExtractor, crops: np.ndarray) -> np.ndarray:
    """Return the features [N, D] of `crops`."""
    features = np.empty((len(crops), PAPER_FEATURES), np.float32)
    extractor.start(list(crops), range(len(crops)), features)
    extractor.wait()
    return features


def write_mixture(folder: Path, features: np.ndarray) -> GaussianMixture:
    """Write round components around the features' mean; return them."""
    means = np.tile(features.mean(axis=0), (COMPONENTS, 1))
    factors = np.tile(np.eye(PAPER_FEATURES, dtype=np.float32) / features.std(), (COMPONENTS, 1, 1))
    mixture = GaussianMixture(np.full(COMPONENTS, 1 / COMPONENTS, np.float32), means, factors)
    np.savez(folder / "mixture.npz", weights=mixture.weights, means=means, precisions_cholesky=factors)
    return mixture


def write_golden(folder: Path, extractor: OnnxExtractor, mixture: GaussianMixture) -> None:
    """Write the golden faces and what the graph answers on a CPU."""
    spec = PreprocessSpec()
    images, boxes = draw_golden_images()
    faces = [encode_face(data, tuple(map(float, box)), spec) for data, box in zip(images, boxes, strict=True)]
    features = embed(extractor, np.stack(FaceCropper(spec, 2, len(faces)).crop(faces)))
    np.savez_compressed(
        folder / "golden.npz",
        pictures=np.frombuffer(b"".join(images), dtype=np.uint8),
        lengths=np.array([len(data) for data in images]),
        boxes=boxes,
        features=features,
        log_likelihoods=log_likelihood(features, stack_mixture(mixture)),
    )
