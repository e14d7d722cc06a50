"""Held-out photographs' log-likelihoods: what a p-value is counted against."""

import hashlib

import numpy as np
from numpy.typing import NDArray

from scorer.mixture import GaussianMixture, log_likelihood, stack_mixture


def calibrate(mixture: GaussianMixture, features_ND: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the log-likelihoods of held-out photographs in ascending order, [n] nats, as serving computes them.

    Raises:
        ValueError: a face has none, which would poison every p-value.
    """
    values = np.sort(log_likelihood(features_ND, stack_mixture(mixture)).astype(np.float64))
    if not np.isfinite(values).all():
        message = "a calibration face has no finite log-likelihood: look for a broken engine or photograph"
        raise ValueError(message)
    return values


def name_calibration(values: NDArray[np.float64]) -> str:
    """Return a short name that changes with any value."""
    return hashlib.sha256(values.astype("<f8").tobytes()).hexdigest()[:12]
