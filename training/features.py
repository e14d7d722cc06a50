"""Features through the engine that serves: what the mixture is fitted on is what it will score."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from scorer.openvino_embedder import OpenVinoExtractor
from training.network import FEATURE_SIZE


def extract_features(model: Path, crops_NHWC: NDArray[np.uint8], threads: int) -> NDArray[np.float32]:
    """Return [N, 768] features of [N, S, S, 3] crops from the exported graph at `model`."""
    extractor = OpenVinoExtractor(model, FEATURE_SIZE, threads)
    features = np.full((len(crops_NHWC), FEATURE_SIZE), np.nan, dtype=np.float32)
    extractor.start(list(crops_NHWC), range(len(crops_NHWC)), features)
    extractor.wait()
    return features
