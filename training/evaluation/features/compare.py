"""The compared features by name, and the mixture that each gets by the same fit."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from scorer.mixture import stack_mixture
from training.data.shards import FaceSet, Images
from training.evaluation.face_scorer import weigh
from training.evaluation.features.deployed import load_exif_ranking
from training.evaluation.features.networks import load_clip, load_exif_language, load_farl
from training.evaluation.features.protocol import FeatureExtractor
from training.mixture.fit import FittedMixture, Report, choose_mixture
from training.recipes import MixtureRule

# Each from a path: weights, but a run folder for exif_l2r.
COMPARED: dict[str, Callable[[Path, int], FeatureExtractor]] = {
    "clip": lambda path, _: load_clip(path),
    "farl": lambda path, _: load_farl(path),
    "exif_language": lambda path, _: load_exif_language(path),
    "exif_l2r": load_exif_ranking,
}
Score = Callable[[NDArray[np.uint8]], NDArray[np.float64]]


def load_compared(name: str, path: Path, threads: int) -> FeatureExtractor:
    """Return the extractor `name` from its published weights, or its run folder, at `path`.

    Raises:
        FileNotFoundError: there is nothing at `path`.
        ValueError: the name is unknown, or `path` holds something else.
    """
    if name not in COMPARED:
        message = f"no features {name!r} to compare with; use one of {', '.join(COMPARED)}"
        raise ValueError(message)
    return COMPARED[name](path, threads)


def fit_compared(
    extractor: FeatureExtractor,
    faces: Mapping[str, FaceSet],
    rule: MixtureRule,
    report: Report = lambda *_: None,
) -> tuple[FittedMixture, Score]:
    """Fit the extractor's mixture on `faces` as the recipe fits its own; return it and what scores crops by it.

    Args:
        extractor: whose features.
        faces: by role; every role that `rule` names, and `fit`.
        rule: of the recipe that is compared with.
        report: called with what is fitted and with each iteration.

    Raises:
        ValueError: too few faces or sources for any candidate of the rule.
    """
    features = {role: extractor.extract(chosen.crops) for role, chosen in faces.items()}
    fitted = choose_mixture(features, {role: chosen.sources for role, chosen in faces.items()}, rule, report=report)
    stacked = stack_mixture(fitted.mixture)

    def score(crops_NHWC: Images) -> NDArray[np.float64]:
        return weigh(extractor.extract(crops_NHWC), stacked)

    return fitted, score
