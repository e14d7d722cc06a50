"""The features to compare with, by name."""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ingest.spec import PreprocessSpec
from training.data.shards import Images
from training.evaluation.features.deployed import load_exif_ranking
from training.evaluation.features.networks import load_clip, load_exif_language, load_farl


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


# Each loader takes the path of weights, or of a run folder for exif_l2r.
COMPARED: dict[str, Callable[[Path, int, PreprocessSpec], FeatureExtractor]] = {
    "clip": lambda path, *_: load_clip(path),
    "farl": lambda path, *_: load_farl(path),
    "exif_language": lambda path, *_: load_exif_language(path),
    "exif_l2r": load_exif_ranking,
}


def load_compared(name: str, path: Path, threads: int, cut: PreprocessSpec) -> FeatureExtractor:
    """Return the extractor `name` from its published weights or its run folder at `path`; `cut` is that of the crops.

    Raises:
        FileNotFoundError: `path` does not exist.
        ValueError: the name is unknown, or `path` contains something else, or another cut.
    """
    if name not in COMPARED:
        message = f"there are no features {name!r}; use one of {', '.join(COMPARED)}"
        raise ValueError(message)
    return COMPARED[name](path, threads, cut)
