"""Compute log-likelihoods of crops with the deployed engine, which is compiled once for a whole evaluation."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from scorer.mixture import GaussianMixture, StackedMixture, log_likelihood, stack_mixture
from training.data.shards import Images
from training.evaluation.measures import LogLikelihoods
from training.export.features import Alteration, embed_crops, open_extractor

ROWS_PER_PRODUCT = 1024  # bounds the mixture's intermediate arrays: 1024 x 12 x 768 doubles are 75 MB


class FaceScorer:
    """A compiled extractor and a mixture. Memory grows with the features only, not with the crops.

    Raises:
        BundleMismatch: the graph at `model` is unreadable, or its number of features differs from the mixture's.
    """

    def __init__(self, model: Path, mixture: GaussianMixture, threads: int) -> None:
        self._extractor = open_extractor(model, mixture.means.shape[1], threads)
        self._mixture = stack_mixture(mixture)

    def embed(self, crops_NHWC: Images, alter: Alteration | None = None) -> NDArray[np.float32]:
        """Return [N, D] features of [N, S, S, 3] crops; `alter` changes each crop first."""
        return embed_crops(self._extractor, crops_NHWC, alter)

    def score_features(self, features_ND: NDArray[np.float32]) -> LogLikelihoods:
        """Return [N] log-likelihoods in nats of [N, D] features."""
        return score_features(features_ND, self._mixture)

    def log_likelihoods(self, crops_NHWC: Images, alter: Alteration | None = None) -> LogLikelihoods:
        """Return [N] log-likelihoods in nats of [N, S, S, 3] crops."""
        return self.score_features(self.embed(crops_NHWC, alter))


def score_features(features_ND: NDArray[np.float32], mixture: StackedMixture) -> LogLikelihoods:
    """Return [N] log-likelihoods in nats of [N, D] features, computed as the scorer computes them."""
    starts = range(0, len(features_ND), ROWS_PER_PRODUCT)
    blocks = [log_likelihood(features_ND[start : start + ROWS_PER_PRODUCT], mixture) for start in starts]
    return np.concatenate(blocks).astype(np.float64)
