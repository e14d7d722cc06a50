"""The Gaussian mixture over features of real photographs, and its log-likelihood as one matrix product.

Shape suffixes: N faces, D features, K components. Likelihoods are in nats.
"""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

# NumPy and CuPy share this module's code; CuPy's arrays have no static type here.
Array = Any
WEIGHT_TOLERANCE = 1e-5
ROW_BLOCK = 32  # a multiple of the number of rows that BLAS kernels process at once
# BLAS kernels for different CPUs disagree on a fifth of 2,003 faces, by up to 4.5e-13 nats; rounding to this step hides
# the difference in all but one face of two million. An order-independent product of split factors takes four times as
# long.
STEP_NATS = 2.0**-20


@dataclass(frozen=True, slots=True, eq=False)
class GaussianMixture:
    """The parameters of a fitted mixture, as scikit-learn names and orders them.

    Attributes:
        weights: [K], positive, summing to one.
        means: [K, D].
        precisions_cholesky: [K, D, D] upper triangular (full covariance) or [K, D] (diagonal), so
            that `precision = factor @ factor.T`.

    Raises:
        ValueError: shapes disagree, a number is not finite, or the weights are not a distribution.
    """

    weights: NDArray[np.floating]
    means: NDArray[np.floating]
    precisions_cholesky: NDArray[np.floating]

    def __post_init__(self) -> None:
        components, size = self.means.shape
        if self.weights.shape != (components,):
            message = f"mixture has {components} means but weights of shape {self.weights.shape}"
            raise ValueError(message)
        if self.precisions_cholesky.shape not in {(components, size), (components, size, size)}:
            message = f"mixture factors have shape {self.precisions_cholesky.shape}, means {self.means.shape}"
            raise ValueError(message)
        if not all(np.isfinite(array).all() for array in (self.weights, self.means, self.precisions_cholesky)):
            message = "mixture holds a number that is not finite"
            raise ValueError(message)
        if self.weights.min() <= 0 or abs(float(self.weights.sum(dtype=np.float64)) - 1) > WEIGHT_TOLERANCE:
            message = "mixture weights are not positive numbers that sum to one"
            raise ValueError(message)
        if self.diagonals().min() <= 0:
            message = "mixture has a precision factor whose diagonal is not positive"
            raise ValueError(message)

    def diagonals(self) -> NDArray[np.floating]:
        """Return the diagonals of the factors, [K, D]."""
        if self.precisions_cholesky.ndim == 2:  # noqa: PLR2004 - the rank of a matrix
            return self.precisions_cholesky
        return np.diagonal(self.precisions_cholesky, axis1=1, axis2=2)


@dataclass(frozen=True, slots=True, eq=False)
class StackedMixture:
    """A mixture in the layout for scoring: the factors of all components side by side in one matrix.

    Attributes:
        centre: [D], subtracted first, so that single precision represents differences.
        panels: column panels of the stacked factors. Panel j is [rows_j, K * columns_j]: in these columns an upper
            triangular factor has zeros below row `rows_j`, and skipping them saves a third of the work.
        offsets: the projected means, one [K * columns_j] for each panel.
        constants: [K], log weight + log determinant - D/2 log 2 pi.
        xp: `numpy` or `cupy`.
    """

    centre: Array
    panels: tuple[Array, ...]
    offsets: tuple[Array, ...]
    constants: Array
    xp: Any


def stack_mixture(
    mixture: GaussianMixture,
    dtype: DTypeLike = np.float64,
    xp: Any = np,  # noqa: ANN401 - the array module, numpy or cupy
    panels: int = 4,
) -> StackedMixture:
    """Convert `mixture` to the layout for `log_likelihood`; numbers are computed in float64, stored as `dtype`.

    Double precision is the default, in training and in serving: a face then gets the same bits in any batch, for 1 % of
    the time of the engine.

    With `panels=1` and full covariances, scoring is one (N, D) x (D, K D) product; more panels skip
    the zeros below the triangular factors' diagonals. A diagonal mixture ignores `panels`.
    """
    weights, means, factors = (
        np.asarray(array, dtype=np.float64) for array in (mixture.weights, mixture.means, mixture.precisions_cholesky)
    )
    size = means.shape[1]
    centre = (weights[:, np.newaxis] * means).sum(axis=0)
    shifted = means - centre
    constants = (
        np.log(weights) + np.log(mixture.diagonals().astype(np.float64)).sum(axis=1) - size / 2 * math.log(2 * math.pi)
    )
    matrices: list[NDArray[np.float64]]
    if factors.ndim == 2:  # noqa: PLR2004 - diagonal covariances
        matrices, offsets = [factors], [shifted * factors]
    else:
        edges = np.linspace(0, size, panels + 1).astype(int)
        matrices, offsets = [], []
        for start, stop in pairwise(edges):
            panel = factors[:, :stop, start:stop]
            matrices.append(np.ascontiguousarray(panel.transpose(1, 0, 2)).reshape(stop, -1))
            offsets.append(np.einsum("kd,kde->ke", shifted[:, :stop], panel).reshape(-1))
    return StackedMixture(
        centre=xp.asarray(centre, dtype=dtype),
        panels=tuple(xp.asarray(matrix, dtype=dtype) for matrix in matrices),
        offsets=tuple(xp.asarray(offset, dtype=dtype) for offset in offsets),
        constants=xp.asarray(constants, dtype=dtype),
        xp=xp,
    )


def component_log_likelihood(features_ND: Array, mixture: StackedMixture) -> Array:
    """Return [N, K]: log weight + log density of each face under each component, in nats.

    In float64 a face gets the same bits in any batch (tested on OpenBLAS's kernels for Haswell, Zen, Skylake-X and
    Sapphire Rapids); in float32 the numbers agree to 1e-3 nats.
    """
    xp, components, count = mixture.xp, mixture.constants.shape[0], features_ND.shape[0]
    # Matrix products sum in another order for the last few rows and for a small matrix: the batch is padded.
    centred = xp.zeros((count + -count % ROW_BLOCK, features_ND.shape[1]), dtype=mixture.centre.dtype)
    centred[:count] = features_ND
    centred[:count] -= mixture.centre
    distances = xp.zeros((centred.shape[0], components), dtype=centred.dtype)
    if mixture.offsets[0].ndim == 2:  # noqa: PLR2004 - diagonal covariances
        for component in range(components):
            residual = centred * mixture.panels[0][component] - mixture.offsets[0][component]
            distances[:, component] = xp.einsum("nd,nd->n", residual, residual)
    else:
        for panel, offset in zip(mixture.panels, mixture.offsets, strict=True):
            residual = centred[:, : panel.shape[0]] @ panel
            residual -= offset
            residual = residual.reshape(centred.shape[0], components, panel.shape[1] // components)
            distances += xp.einsum("nkd,nkd->nk", residual, residual)
    return mixture.constants - distances[:count] / 2


def log_likelihood(features_ND: Array, mixture: StackedMixture) -> Array:
    """Return [N]: log sum_k w_k N(x; mu_k, Sigma_k) of each face in nats (the paper's Eq. 7 score), see `round_nats`.

    A row that contains a number that is not finite gives NaN, never a large likelihood.
    """
    joint = component_log_likelihood(features_ND, mixture)
    peak = joint.max(axis=1, keepdims=True)
    return round_nats(
        (peak + mixture.xp.log(mixture.xp.exp(joint - peak).sum(axis=1, keepdims=True)))[:, 0], mixture.xp
    )


def round_nats(likelihoods: Array, xp: Any = np) -> Array:  # noqa: ANN401 - the array module, numpy or cupy
    """Return log-likelihoods as multiples of `STEP_NATS`; values that are not finite are unchanged.

    Results, the calibration and the golden faces are all rounded, so that a comparison of a face with itself gives
    equality on every CPU.
    """
    return xp.rint(likelihoods / STEP_NATS) * STEP_NATS
