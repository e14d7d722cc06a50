"""A bundle for the GPU around a small network: whole, but for what only a GPU can add to it."""

import shutil
from pathlib import Path

import numpy as np

from scorer.bundle.bundle import Bundle, list_files, write_manifest
from scorer.bundle.manifest import BatchProfile
from tests.small_extractor import make_small_extractor
from training.bundle import describe_engine
from training.export.onnx import export_onnx
from training.export.target import Deployment
from training.export.triton_repository import write_repository

DEPLOYMENT = Deployment("tensorrt", "fp16", BatchProfile(opt=8, max=32))


def write_gpu_bundle(folder: Path, starter: Bundle) -> Path:
    """Write one into `folder` with the starter's mixture, calibration, detector and golden faces; return `folder`."""
    features = starter.manifest.feature_size
    network, crops = make_small_extractor(features), np.zeros((1, 224, 224, 3), np.uint8)
    export_onnx(network, folder, DEPLOYMENT.precision, crops)
    write_repository(folder, starter.model.preprocess, features, DEPLOYMENT)
    shutil.copytree(starter.folder / "face_detector", folder / "face_detector")
    for name in ("mixture.npz", "calibration.npz", "golden.npz"):
        shutil.copyfile(starter.folder / name, folder / name)
    manifest = starter.manifest
    kept = {"licence", "detector", "mixture_components", "calibration_id", "calibration_size", "golden_tolerance_nats"}
    fields = {name: getattr(manifest, name) for name in kept} | {"provenance": manifest.provenance}
    write_manifest(
        folder,
        {"bundle_id": "small", **fields, **describe_engine(DEPLOYMENT, starter.model.preprocess, features)},
        dict.fromkeys(list_files(folder), "none"),
    )
    return folder
