"""The protocol of the features that Table II compares."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ingest.spec import PreprocessSpec
from training.data.shards import Images


class FeatureExtractor(Protocol):
    """Computes features of face crops. For each extractor a mixture is fitted by the same rule.

    Attributes:
        name: in the table.
        preprocess: how the crops for `extract` must be cut.
    """

    name: str
    preprocess: PreprocessSpec

    def extract(self, crops_NHWC: Images) -> NDArray[np.float32]:
        """Return [N, D] features of [N, S, S, 3] crops, which may be on disk."""
