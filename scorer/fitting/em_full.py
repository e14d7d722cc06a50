"""The EM steps for full covariances, which take nearly all the time of a fit.

Three optimisations change the iterations by rounding only:

- A component is not evaluated for a face if its log density is certainly `NEGLIGIBLE_NATS` below that of another one.
  In hundreds of dimensions this holds for nearly all pairs: a face belongs to one component. The bound follows from
  the last evaluation. With A = L_new^-1 L_old, the new residual is y_new = A y_old + L_new^-1 (mu_old - mu_new), so
  |y_new| >= |y_old| / |A^-1| - |L_new^-1 (mu_old - mu_new)| for every face.
  The omitted part of a face's likelihood is below K exp(-50) = K 2e-22 of it.
- A face contributes to a component's covariance if its responsibility is above `NEGLIGIBLE_SHARE`. All other
  contributions together are below N 1e-12 faces, and near its maximum the bound changes in second order only.
- Iterations run in single precision until they converge, then in double precision until they converge again. The first
  double-precision iteration evaluates all pairs, so the result does not depend on single precision. Differences of
  features and means, sums over blocks, and factors are always in double precision.

The zeros of the triangular factors are skipped panel by panel (as in `scorer.mixture`). A covariance is the product of
a matrix with its own transpose, which BLAS computes as a symmetric update with half the operations.

Shape suffixes: N faces, D features, K components.
"""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from scorer.fitting.em_shared import (
    Array,
    FeatureSteps,
    Parameters,
    blocks,
    factorise,
    normalise_weights,
    sum_faces,
    to_host,
)

NEGLIGIBLE_NATS = 50.0
NEGLIGIBLE_SHARE = 1e-12
PANELS = 4
# A thousandth covers the rounding of the distances and of their bounds, in single precision too.
ROUNDING_MARGIN = 0.999
# For each component, updating the bounds takes about 5 D^3 operations and saves up to 1.25 N D^2.
MIN_FACES_PER_FEATURE = 8
# Frobenius norms of a covariance's relative change: above the first the bounds are useless, below the second the
# Frobenius norm is precise enough.
LOOSE_NORM, TIGHT_NORM = 1e3, 0.02


@dataclass(eq=False)
class FullSteps(FeatureSteps):
    """`scorer.fitting.em.EmSteps` for covariances [K, D, D].

    Attributes:
        precisions: single, then double.
    """

    precisions: ClassVar[tuple[type[np.floating[Any]], ...]] = (np.float32, np.float64)

    def __post_init__(self) -> None:
        self._previous: Parameters | None = None
        self._factors: list[tuple[NDArray[np.float64], NDArray[np.float64]]] = []  # of `_previous`
        self._dtype: type[np.floating[Any]] | None = None  # of the computation of `_lower_bounds`
        self._nearest: Array = None  # [N], the most likely component
        self._lower_bounds: Array = None  # [N, K], of the Mahalanobis distances

    def maximise(self, responsibilities_NK: Array, dtype: type[np.floating[Any]]) -> Parameters:
        """Return the parameters of maximum likelihood under these responsibilities."""
        components, size = responsibilities_NK.shape[1], self.features.shape[1]
        faces = sum_faces(responsibilities_NK)
        means = np.empty((components, size))
        covariances = np.empty((components, size, size))
        for component in range(components):
            shares = responsibilities_NK[:, component]
            rows = self.xp.flatnonzero(shares > NEGLIGIBLE_SHARE)
            # Deviations from the previous mean; one small correction gives those from the new mean.
            around = self._previous.means[component] if self._previous else self._weighted_mean(shares, rows)
            total, scatter = self._scatter(shares, rows, around, dtype)
            shift = total / faces[component]
            means[component] = around + shift
            covariances[component] = scatter / faces[component] - np.outer(shift, shift)
        covariances[:, range(size), range(size)] += self.variance_added
        return Parameters(normalise_weights(faces), means, covariances)

    def _weighted_mean(self, shares_N: Array, rows: Array) -> NDArray[np.float64]:
        """Return the weighted mean [D] of the features of `rows`."""
        total = sum(
            shares_N[rows[block]] @ self.features[rows[block]].astype(np.float64) for block in blocks(len(rows))
        )
        return to_host(total / shares_N[rows].sum())

    def _scatter(
        self, shares_N: Array, rows: Array, around_D: NDArray[np.float64], dtype: type[np.floating[Any]]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the weighted sum [D] of the deviations from `around_D` and of their squares [D, D]."""
        xp, size = self.xp, len(around_D)
        centre = xp.asarray(around_D)
        total, scatter = xp.zeros(size), xp.zeros((size, size))
        for block in blocks(len(rows)):
            root = xp.sqrt(shares_N[rows[block]])
            deviations = self.features[rows[block]] - centre
            deviations *= root[:, None]
            total += root @ deviations
            deviations = deviations.astype(dtype, copy=False)
            scatter += deviations.T @ deviations
        return to_host(total), to_host(scatter)

    def expect(self, parameters: Parameters, dtype: type[np.floating[Any]]) -> Array:
        """Return [N, K]: log weight + log density, -inf where the responsibility rounds to zero."""
        xp = self.xp
        count, (components, size) = len(self.features), parameters.means.shape
        faces = parameters.weights * count
        factors = [factorise(parameters.covariances[k], faces[k]) for k in range(components)]
        constants = [
            math.log(weight) - float(np.log(np.diagonal(lower)).sum()) - size / 2 * math.log(2 * math.pi)
            for weight, (lower, _) in zip(parameters.weights, factors, strict=True)
        ]
        if self._previous and dtype is self._dtype and components > 1 and count >= MIN_FACES_PER_FEATURE * size:
            self._update_lower_bounds(parameters.means - self._previous.means, factors)
        else:
            self._nearest = xp.zeros(count, dtype=np.int64)
            self._lower_bounds = xp.zeros((count, components))
        joint = xp.full((count, components), -np.inf)
        highest = xp.empty(count)

        def evaluate(component: int, rows: Array) -> Array:
            squares = self._squared_distances(rows, parameters.means[component], factors[component][1], dtype)
            self._lower_bounds[rows, component] = xp.sqrt(squares)
            joint[rows, component] = constants[component] - squares / 2
            return joint[rows, component]

        for component in range(components):
            rows = xp.flatnonzero(self._nearest == component)
            highest[rows] = evaluate(component, rows)
        for component in range(components):
            upper_bounds = constants[component] - self._lower_bounds[:, component] ** 2 / 2
            rows = xp.flatnonzero((self._nearest != component) & (upper_bounds > highest - NEGLIGIBLE_NATS))
            evaluate(component, rows)
        self._previous, self._factors, self._dtype = parameters, factors, dtype
        self._nearest = joint.argmax(axis=1)
        return joint

    def _squared_distances(
        self, rows: Array, mean_D: NDArray[np.float64], factor_DD: NDArray[np.float64], dtype: type[np.floating[Any]]
    ) -> Array:
        """Return the squared Mahalanobis distances of `rows` to one component."""
        xp = self.xp
        centre = xp.asarray(mean_D)
        panels = [
            xp.asarray(np.ascontiguousarray(factor_DD[:stop, start:stop], dtype=dtype))
            for start, stop in pairwise(np.linspace(0, len(mean_D), PANELS + 1).astype(int))
        ]
        squares = xp.zeros(len(rows))
        for block in blocks(len(rows)):
            deviations = (self.features[rows[block]] - centre).astype(dtype, copy=False)
            for panel in panels:
                residual = deviations[:, : len(panel)] @ panel
                squares[block] += xp.einsum("nd,nd->n", residual, residual)
        return squares

    def _update_lower_bounds(
        self, shifts_KD: NDArray[np.float64], factors: list[tuple[NDArray[np.float64], NDArray[np.float64]]]
    ) -> None:
        """Turn the lower bounds of the distances under the previous parameters into bounds under these."""
        for component, ((lower, inverse), (_, inverse_before)) in enumerate(zip(factors, self._factors, strict=True)):
            norm = bound_norm(inverse_before, lower, self.xp)
            shift = float(np.linalg.norm(inverse.T @ shifts_KD[component]))
            bounds = (self._lower_bounds[:, component] / norm - shift) * ROUNDING_MARGIN
            self._lower_bounds[:, component] = self.xp.maximum(bounds, 0)


def bound_norm(
    inverse_before_DD: NDArray[np.float64],
    lower_DD: NDArray[np.float64],
    xp: Any,  # noqa: ANN401 - the array module, numpy or cupy
) -> float:
    """Return an upper bound of the spectral norm |A^-1| = |L_old^-1 L_new|.

    With E = A^-1 A^-T - I, |A^-1|^2 <= 1 + |E|, and |E| <= |E^4|_F^(1/4), which is within D^(1/8) of it. The bound is
    infinite where |E|_F exceeds `LOOSE_NORM`: no bound on the joint then follows, and the fourth power could overflow.

    Args:
        inverse_before_DD: L_old^-T.
        lower_DD: L_new.
        xp: `numpy` or `cupy`.
    """
    product = xp.asarray(inverse_before_DD.T, dtype=np.float32) @ xp.asarray(lower_DD, dtype=np.float32)
    excess = product @ product.T
    excess -= xp.eye(len(excess), dtype=np.float32)
    bound = float(xp.linalg.norm(excess))
    if bound > LOOSE_NORM:
        return math.inf
    if bound > TIGHT_NORM:
        square = excess.T @ excess
        bound = min(bound, float(xp.linalg.norm(square.T @ square)) ** 0.25)
    return math.sqrt(1 + bound)
