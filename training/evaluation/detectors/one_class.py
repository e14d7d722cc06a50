"""Detectors that know photographs only: the project's own method, and references that train nothing.

- `bundle`: the log-likelihood by a bundle's network and mixture, of the crop that the bundle states.
- `bundle_l2`: the same features divided by their length, as in the paper's follow-up BLADES, and a mixture of as many
  components, fitted to photographs.
- `residuals`, `noiseprint`: the Mahalanobis distance of correlated noise (`residual_covariance`) from photographs, in
  at most 32 whitened principal components.

No generated picture is used to fit one of them.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from ingest.device import resolve_device
from scorer.bundle.bundle import Bundle, read_bundle
from scorer.fitting.fit import Fitter, make_mixture
from scorer.fitting.shapes import MixtureRule, MixtureShape
from scorer.mixture import stack_mixture
from training.data.copies import rescale
from training.evaluation.detectors.base import PICTURES_PER_BATCH, Detector, Picture, WeightsAbsent
from training.evaluation.detectors.catalogue import ONE_CLASS
from training.evaluation.detectors.residual_covariance import (
    NOISEPRINT_WEIGHTS,
    HighPassBank,
    correlate,
    load_noiseprint,
    take_centre,
)
from training.evaluation.face_scorer import score_features
from training.export.features import embed_crops, open_extractor
from training.export.head import fit_head

SHRINKAGE = 0.1  # of the correlations, as in the starter's mixture
MOST_COMPONENTS, PHOTOGRAPHS_PER_COMPONENT = 32, 4
Input = NDArray[np.float32]
Features = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class FeatureRule:
    """How features are computed.

    Attributes:
        cut: returns the input [C, H, W] of a picture.
        embed: returns [N, D] features of inputs.
    """

    cut: Callable[[Picture], Input]
    embed: Callable[[Sequence[Input]], Features]

    def extract(self, pictures: Iterable[Picture]) -> Features:
        """Return [N, D] features of pictures; a few are in memory at a time.

        Raises:
            ValueError: there is no picture.
        """
        waiting = iter(pictures)
        parts = []
        while inputs := [self.cut(picture) for picture in islice(waiting, PICTURES_PER_BATCH)]:
            parts.append(self.embed(inputs))
        if not parts:
            message = "there are no photographs to compare with: give some"
            raise ValueError(message)
        return np.concatenate(parts)


@dataclass(slots=True, eq=False)
class OneClassDetector:
    """A `Detector` that compares features with those of photographs.

    Attributes:
        name, higher_is_generated: see `Detector`.
        rule: computes the features.
        score: returns [N] scores of [N, D] features.
    """

    name: str
    higher_is_generated: bool
    rule: FeatureRule
    score: Callable[[Features], NDArray[np.floating]]

    def preprocess(self, picture: Picture) -> Input:
        """See `Detector`."""
        return self.rule.cut(picture)

    def score_batch(self, pictures: Sequence[Picture]) -> NDArray[np.float32]:
        """See `Detector`."""
        if not len(pictures):
            return np.empty(0, np.float32)
        return self.score(self.rule.extract(pictures)).astype(np.float32)


def open_one_class(
    name: str, bundle: Path, photographs: Iterable[Picture], threads: int, files: Mapping[str, Path]
) -> Detector:
    """Return a detector of `ONE_CLASS`.

    Args:
        name: of the detector.
        bundle: the folder of a bundle, for `bundle` and `bundle_l2`.
        photographs: of a run's role `fit`; each detector except `bundle` is fitted to them.
        threads: of the bundle's engine.
        files: contains `noiseprint` for that detector.

    Raises:
        ValueError: there is no such detector, or there are too few photographs.
        WeightsAbsent: `files` lacks Noiseprint++.
        WrongWeights: the file is another one.
        BundleMismatch: `bundle` is no usable bundle.
    """
    match name:
        case "bundle":
            return load_bundle(bundle, threads)
        case "bundle_l2":
            return load_bundle_l2(bundle, photographs, threads)
        case "residuals":
            return load_residuals(photographs)
        case "noiseprint":
            if "noiseprint" not in files or not files["noiseprint"].is_file():
                message = f"noiseprint needs a file that is not there; give noiseprint=PATH: {NOISEPRINT_WEIGHTS}"
                raise WeightsAbsent(message)
            return load_noiseprint_covariance(files["noiseprint"], photographs)
    message = f"there is no one-class detector {name!r}; use one of {', '.join(ONE_CLASS)}"
    raise ValueError(message)


def load_bundle(folder: Path, threads: int) -> OneClassDetector:
    """Return the detector of a bundle; errors as of `read_bundle`."""
    bundle = read_bundle(folder)
    score = partial(score_features, mixture=bundle.model.mixture)
    return OneClassDetector("bundle", higher_is_generated=False, rule=_embed_with(bundle, threads), score=score)


def load_bundle_l2(folder: Path, photographs: Iterable[Picture], threads: int) -> OneClassDetector:
    """Return the detector of a bundle's features of length 1.

    Its mixture is fitted to the photographs alone, without the reduced copies that a recipe may add.

    Raises:
        ValueError: there are too few photographs.
        BundleMismatch: as `read_bundle`.
    """
    bundle = read_bundle(folder)
    plain = _embed_with(bundle, threads)
    rule = FeatureRule(plain.cut, lambda inputs: normalise(plain.embed(inputs)))
    shape = MixtureShape("full", bundle.manifest.mixture_components, SHRINKAGE)
    mixture = make_mixture(Fitter(MixtureRule()).fit(rule.extract(photographs), shape), shape)
    score = partial(score_features, mixture=stack_mixture(mixture))
    return OneClassDetector("bundle_l2", higher_is_generated=False, rule=rule, score=score)


def load_residuals(photographs: Iterable[Picture]) -> OneClassDetector:
    """Return the distance of high-pass residuals; errors as of `fit_head`."""
    return _fit_correlations("residuals", HighPassBank(), photographs)


def load_noiseprint_covariance(path: Path, photographs: Iterable[Picture]) -> OneClassDetector:
    """Return the distance of Noiseprint++'s hidden maps; errors as of `load_noiseprint` and `fit_head`."""
    return _fit_correlations("noiseprint", load_noiseprint(path), photographs)


def normalise(features_ND: Features) -> Features:
    """Return [N, D] features divided by their lengths; zeros stay zeros."""
    lengths = np.linalg.norm(features_ND, axis=1, keepdims=True)
    return features_ND / np.maximum(lengths, np.finfo(np.float32).tiny)


def _embed_with(bundle: Bundle, threads: int) -> FeatureRule:
    extractor = open_extractor(bundle.extractor, bundle.manifest.feature_size, threads)
    size = bundle.model.preprocess.size

    def cut(picture: Picture) -> Input:
        return rescale(picture, size, Image.Resampling.BILINEAR).transpose(2, 0, 1).astype(np.float32)

    def embed(inputs: Sequence[Input]) -> Features:
        crops = np.stack(inputs).transpose(0, 2, 3, 1)
        return embed_crops(extractor, np.ascontiguousarray(crops, dtype=np.uint8))

    return FeatureRule(cut, embed)


def _fit_correlations(name: str, maps: nn.Module, photographs: Iterable[Picture]) -> OneClassDetector:
    device = torch.device(resolve_device("auto").kind)
    maps.to(device)

    def embed(inputs: Sequence[Input]) -> Features:
        with torch.inference_mode():
            return np.stack([correlate(maps(torch.from_numpy(each).to(device)).cpu()) for each in inputs])

    rule = FeatureRule(take_centre, embed)
    rows = rule.extract(photographs)
    matrix, offset = fit_head(rows, max(1, min(MOST_COMPONENTS, len(rows) // PHOTOGRAPHS_PER_COMPONENT)))

    def score(features_ND: Features) -> NDArray[np.floating]:
        return np.linalg.norm(features_ND @ matrix + offset, axis=1)

    return OneClassDetector(name, higher_is_generated=True, rule=rule, score=score)
