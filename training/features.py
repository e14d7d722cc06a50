"""Features through the engine that serves: what the mixture is fitted on is what it will score."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from scorer.openvino_embedder import OpenVinoExtractor
from training.data.shards import Images
from training.pretext.network import FEATURE_SIZE

CROPS_AT_ONCE = 256


def extract_features(model: Path, crops_NHWC: Images, threads: int) -> NDArray[np.float32]:
    """Return [N, 768] features of [N, S, S, 3] crops from the exported graph at `model`.

    `crops_NHWC` is read by slices, so that it may live on disk.
    """
    extractor = OpenVinoExtractor(model, FEATURE_SIZE, threads)
    features = np.full((len(crops_NHWC), FEATURE_SIZE), np.nan, dtype=np.float32)
    for start in range(0, len(crops_NHWC), CROPS_AT_ONCE):
        crops = np.asarray(crops_NHWC[start : start + CROPS_AT_ONCE])
        extractor.start(list(crops), range(start, start + len(crops)), features)
    extractor.wait()
    return features
