"""Code that the EM steps for all kinds of covariance share.

Shape suffixes: N faces, D features, K components.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import lapack

# An array of NumPy or CuPy; CuPy's arrays have no static type here.
Array = Any
BLOCK_FACES = 2048  # 12 MB of 768 features in double precision


@dataclass(frozen=True, slots=True, eq=False)
class Parameters:
    """The parameters of a mixture, on the host in double precision: weights [K], means [K, D] and covariances."""

    weights: NDArray[np.float64]
    means: NDArray[np.float64]
    covariances: NDArray[np.float64]


@dataclass(eq=False)
class FeatureSteps:
    """Base class of the steps for every kind of covariance; see `scorer.fitting.em.EmSteps`.

    Attributes:
        features: [N, D], on the device that computes.
        variance_added: to the diagonal of every covariance.
        xp: the array module, `numpy` or `cupy`.
    """

    features: Array
    variance_added: float
    xp: Any


class SingularCovariance(ValueError):
    """A covariance matrix has no inverse."""


def to_host(array: Array) -> NDArray[Any]:
    """Return an array of NumPy or CuPy as a NumPy array."""
    host: NDArray[Any] = array.get() if hasattr(array, "get") else np.asarray(array)
    return host


def blocks(count: int) -> Iterator[slice]:
    """Yield slices over `count` faces."""
    return (slice(start, start + BLOCK_FACES) for start in range(0, count, BLOCK_FACES))


def sum_faces(responsibilities_NK: Array) -> NDArray[np.float64]:
    """Return the faces [K] of each component, plus scikit-learn's small constant, so that they can be divided by."""
    faces: NDArray[np.float64] = to_host(responsibilities_NK.sum(axis=0)) + 10 * np.finfo(np.float64).eps
    return faces


def normalise_weights(faces_K: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return weights that sum to one."""
    weights: NDArray[np.float64] = faces_K / faces_K.sum()
    return weights


def factorise(covariance_DD: NDArray[np.float64], faces: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the lower Cholesky factor L and U = L^-T, so that U U^T is the precision.

    Args:
        covariance_DD: symmetric.
        faces: the number that it was estimated from, for the error message.

    Raises:
        SingularCovariance: it is not positive definite.
    """
    lower, failed = lapack.dpotrf(covariance_DD, lower=1, clean=1)
    inverse, singular = lapack.dtrtri(lower, lower=1)
    if failed or singular:
        message = (
            f"a covariance of {len(covariance_DD)} features is singular: it was estimated from {faces:.0f} faces. "
            "Fit more faces or fewer components, diagonal covariances, or raise variance_floor or variance_added"
        )
        raise SingularCovariance(message)
    return lower, inverse.T
