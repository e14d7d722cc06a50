"""A bundle with the paper's network, ResNet-50 with 768 features, at int8 and with random weights: for speed only."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torchvision.models import resnet50

from ingest.dali import FaceCropper
from ingest.probe import EncodedFace
from scorer.bundle.bundle import MANIFEST, list_files, read_bundle, write_manifest
from training.bundle import write_golden
from training.export.features import extract_features
from training.export.openvino import export_extractor
from training.pretext.backbone import Normalise
from training.recipes import PAPER_FEATURES

COMPONENTS = 8
CALIBRATION_CROPS = 32


def make_resnet() -> nn.Module:
    """Return the network behind the normalisation, the same weights every time."""
    torch.manual_seed(0)
    network: nn.Module = resnet50(num_classes=PAPER_FEATURES)
    return network


def make_resnet_bundle(starter: Path, folder: Path, faces: Sequence[EncodedFace]) -> Path:
    """Write the bundle into `folder`: its network and mixture, everything else from `starter`."""
    bundle = read_bundle(starter)
    shutil.copytree(starter, folder)
    (folder / MANIFEST).unlink()
    crops = np.stack(FaceCropper(bundle.model.preprocess, 2, CALIBRATION_CROPS).crop(faces[:CALIBRATION_CROPS]))
    network = nn.Sequential(Normalise(bundle.model.preprocess), make_resnet())
    model = export_extractor(network, folder, "int8", crops)
    features = extract_features(model, crops, threads=2, feature_size=PAPER_FEATURES)
    means = np.tile(features.mean(axis=0), (COMPONENTS, 1))
    factors = np.tile(np.eye(PAPER_FEATURES, dtype=np.float32) / features.std(), (COMPONENTS, 1, 1))
    weights = np.full(COMPONENTS, 1 / COMPONENTS, np.float32)
    np.savez(folder / "mixture.npz", weights=weights, means=means, precisions_cholesky=factors)
    write_golden(folder, model, bundle.model.preprocess, threads=2)
    fields = bundle.manifest.model_dump(exclude={"schema_version", "files", "evaluation"}) | {
        "bundle_id": "resnet50-random-int8",
        "precision": "int8",
        "mixture_components": COMPONENTS,
    }
    write_manifest(folder, fields, dict.fromkeys(list_files(folder), "random weights"))
    return folder
