"""Features through the engine that serves: what the mixture is fitted on is what it will score."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from scorer.engines.openvino import OpenVinoExtractor
from training.data.shards import Images
from training.export.onnx_features import OnnxExtractor
from training.pretext.network import FEATURE_SIZE

CROPS_AT_ONCE = 64

Crop = NDArray[np.uint8]
Alteration = Callable[[Crop, int], Crop]
"""From a crop [S, S, 3] and its place in the set to the altered crop of the same shape."""


class Extractor(Protocol):
    """An engine that is fed crops: what `embed_crops` needs of it."""

    feature_size: int

    def start(self, crops: Sequence[Crop], rows: Sequence[int], features: NDArray[np.float32]) -> None:
        """Queue `crops` ([S, S, 3] each); row `rows[i]` of `features` is filled by `wait` at the latest."""

    def wait(self) -> None:
        """Block until every queued crop is done."""


def embed_crops(extractor: Extractor, crops_NHWC: Images, alter: Alteration | None = None) -> NDArray[np.float32]:
    """Return [N, D] features of [N, S, S, 3] crops, each altered first where `alter` is given.

    `crops_NHWC` is read by slices, so that it may live on disk; memory grows by the features alone.
    """
    features = np.full((len(crops_NHWC), extractor.feature_size), np.nan, dtype=np.float32)
    for start in range(0, len(crops_NHWC), CROPS_AT_ONCE):
        crops = list(crops_NHWC[start : start + CROPS_AT_ONCE])
        rows = range(start, start + len(crops))
        if alter is not None:
            crops = [alter(crop, row) for crop, row in zip(crops, rows, strict=True)]
        extractor.start(crops, rows, features)
    extractor.wait()
    return features


def open_extractor(model: Path, feature_size: int, threads: int) -> Extractor:
    """Return the engine of the graph at `model`: OpenVINO's for its own, the reference runtime for a GPU's ONNX.

    Raises:
        BundleMismatch: the graph is unreadable or has another number of features.
    """
    return (OnnxExtractor if model.suffix == ".onnx" else OpenVinoExtractor)(model, feature_size, threads)


def extract_features(model: Path, crops_NHWC: Images, threads: int) -> NDArray[np.float32]:
    """Return [N, 768] features of [N, S, S, 3] crops from the exported graph at `model`."""
    return embed_crops(open_extractor(model, FEATURE_SIZE, threads), crops_NHWC)
