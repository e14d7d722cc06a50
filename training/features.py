"""Features through the engine that serves: what the mixture is fitted on is what it will score."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from scorer.openvino_embedder import OpenVinoExtractor
from training.data.shards import Images
from training.pretext.network import FEATURE_SIZE

CROPS_AT_ONCE = 64

Crop = NDArray[np.uint8]
Alteration = Callable[[Crop, int], Crop]
"""From a crop [S, S, 3] and its place in the set to the altered crop of the same shape."""


def embed_crops(
    extractor: OpenVinoExtractor, crops_NHWC: Images, alter: Alteration | None = None
) -> NDArray[np.float32]:
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


def extract_features(model: Path, crops_NHWC: Images, threads: int) -> NDArray[np.float32]:
    """Return [N, 768] features of [N, S, S, 3] crops from the exported graph at `model`."""
    return embed_crops(OpenVinoExtractor(model, FEATURE_SIZE, threads), crops_NHWC)
