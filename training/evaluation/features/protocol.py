"""What the compared features of Table II have in common."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ingest.spec import PreprocessSpec
from training.data.shards import Images


class FeatureExtractor(Protocol):
    """Features of face crops. No extractor knows of a mixture: each gets its own by the same fit.

    Attributes:
        name: as the table prints it.
        preprocess: how the crops are cut that `extract` takes.
    """

    name: str
    preprocess: PreprocessSpec

    def extract(self, crops_NHWC: Images) -> NDArray[np.float32]:
        """Return [N, D] features of [N, S, S, 3] crops, which may be read from disk slice by slice."""
