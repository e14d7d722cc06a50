"""Compute features with the deployed engine, so that the mixture is fitted on the features that it will score."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from scorer.engines.openvino import OpenVinoExtractor
from training.data.shards import Images
from training.export.onnx_features import OnnxExtractor

CROPS_PER_BATCH = 64

Crop = NDArray[np.uint8]
Alteration = Callable[[Crop, int], Crop]
"""Maps a crop [S, S, 3] and its row in the set to the altered crop of the same shape."""


class Extractor(Protocol):
    """An engine that computes features of crops, as `embed_crops` uses it."""

    feature_size: int

    def start(self, crops: Sequence[Crop], rows: Sequence[int], features: NDArray[np.float32]) -> None:
        """Queue `crops` ([S, S, 3] each); row `rows[i]` of `features` is written before `wait` returns."""

    def wait(self) -> None:
        """Block until every queued crop is done."""


def embed_crops(extractor: Extractor, crops_NHWC: Images, alter: Alteration | None = None) -> NDArray[np.float32]:
    """Return [N, D] features of [N, S, S, 3] crops; `alter` changes each crop first.

    `crops_NHWC` is read by slices, so it can be on disk; memory grows with the features only.
    """
    features = np.full((len(crops_NHWC), extractor.feature_size), np.nan, dtype=np.float32)
    for start in range(0, len(crops_NHWC), CROPS_PER_BATCH):
        crops = list(crops_NHWC[start : start + CROPS_PER_BATCH])
        rows = range(start, start + len(crops))
        if alter is not None:
            crops = [alter(crop, row) for crop, row in zip(crops, rows, strict=True)]
        extractor.start(crops, rows, features)
    extractor.wait()
    return features


def open_extractor(model: Path, feature_size: int, threads: int) -> Extractor:
    """Return the engine of the graph at `model`: OpenVINO for its own format, onnxruntime for ONNX.

    Raises:
        BundleMismatch: the graph is unreadable or has another number of features.
    """
    return (OnnxExtractor if model.suffix == ".onnx" else OpenVinoExtractor)(model, feature_size, threads)


def extract_features(model: Path, crops_NHWC: Images, threads: int, feature_size: int) -> NDArray[np.float32]:
    """Return [N, D] features of [N, S, S, 3] crops from the exported graph at `model`."""
    return embed_crops(open_extractor(model, feature_size, threads), crops_NHWC)
