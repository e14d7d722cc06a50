"""The steps of EM for full covariances, where all of a fit's time goes.

Three shortcuts, none of which changes the path that EM takes by more than rounding:

- A component whose log density is certain to lie `NEGLIGIBLE_NATS` below that of another is not evaluated. In hundreds
  of dimensions nearly all are: a face belongs to one component. Certainty comes from the last evaluation. With
  A = L_new^-1 L_old, the new residual is y_new = A y_old + L_new^-1 (mu_old - mu_new), so that
  |y_new| >= |y_old| / |A^-1| - |L_new^-1 (mu_old - mu_new)|, whatever the face.
  What is left out of a face's likelihood is below K exp(-50) = K 2e-22 of it.
- A face counts for a component's covariance when its responsibility is above `NEGLIGIBLE_SHARE`. The others together
  hold less than N 1e-12 faces, and the bound is flat around its maximum: it changes in second order.
- Iterations run in single precision until it has nothing more to give, then in double precision until they converge by
  the double-precision bound; the first of these evaluates everything, so that nothing rests on single precision in the
  end. Differences of features and means, sums over blocks and factors are always in double.

The triangular factors' zeros are skipped panel by panel (as `scorer.mixture` does), and a covariance is the product of
one matrix with its own transpose, which BLAS computes as a symmetric update in half the operations.

Shape suffixes: N faces, D features, K components.
"""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from training.mixture.em_shared import (
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
# A thousandth covers the rounding of distances and of the bounds that are carried, single precision's too.
CARRIED_SHARE = 0.999
# Carrying bounds costs a component some 5 D^3 operations and saves it up to 1.25 N D^2.
FACES_WORTH_CARRYING = 8
# Frobenius norms of a relative change of covariance: above the first no floor survives, below the second it is enough.
LOOSE_STRETCH, TIGHT_STRETCH = 1e3, 0.02


@dataclass(eq=False)
class FullSteps(FeatureSteps):
    """`training.mixture.em.Steps` for covariances [K, D, D].

    Attributes:
        precisions: single, then double.
    """

    precisions: ClassVar[tuple[type[np.floating[Any]], ...]] = (np.float32, np.float64)

    def __post_init__(self) -> None:
        self._before: Parameters | None = None
        self._factors: list[tuple[NDArray[np.float64], NDArray[np.float64]]] = []  # of `_before`
        self._dtype: type[np.floating[Any]] | None = None  # that `_floors` were measured in
        self._nearest: Array = None  # [N], the likeliest component
        self._floors: Array = None  # [N, K], no distance is below

    def maximise(self, responsibilities_NK: Array, dtype: type[np.floating[Any]]) -> Parameters:
        """Return the parameters that explain the features best under these responsibilities."""
        components, size = responsibilities_NK.shape[1], self.features.shape[1]
        faces = sum_faces(responsibilities_NK)
        means = np.empty((components, size))
        covariances = np.empty((components, size, size))
        for component in range(components):
            shares = responsibilities_NK[:, component]
            rows = self.xp.flatnonzero(shares > NEGLIGIBLE_SHARE)
            # Deviations from the last mean; those from the new one follow from it by one small correction.
            around = self._before.means[component] if self._before else self._mean(shares, rows)
            total, scatter = self._scatter(shares, rows, around, dtype)
            shift = total / faces[component]
            means[component] = around + shift
            covariances[component] = scatter / faces[component] - np.outer(shift, shift)
        covariances[:, range(size), range(size)] += self.variance_added
        return Parameters(normalise_weights(faces), means, covariances)

    def _mean(self, shares_N: Array, rows: Array) -> NDArray[np.float64]:
        """Return the mean [D] of the features of `rows`, weighted."""
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
        if self._before and dtype is self._dtype and components > 1 and count >= FACES_WORTH_CARRYING * size:
            self._carry_floors(parameters.means - self._before.means, factors)
        else:
            self._nearest = xp.zeros(count, dtype=np.int64)
            self._floors = xp.zeros((count, components))
        joint = xp.full((count, components), -np.inf)
        likeliest = xp.empty(count)

        def evaluate(component: int, rows: Array) -> Array:
            squares = self._measure(rows, parameters.means[component], factors[component][1], dtype)
            self._floors[rows, component] = xp.sqrt(squares)
            joint[rows, component] = constants[component] - squares / 2
            return joint[rows, component]

        for component in range(components):
            rows = xp.flatnonzero(self._nearest == component)
            likeliest[rows] = evaluate(component, rows)
        for component in range(components):
            ceiling = constants[component] - self._floors[:, component] ** 2 / 2
            rows = xp.flatnonzero((self._nearest != component) & (ceiling > likeliest - NEGLIGIBLE_NATS))
            evaluate(component, rows)
        self._before, self._factors, self._dtype = parameters, factors, dtype
        self._nearest = joint.argmax(axis=1)
        return joint

    def _measure(
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

    def _carry_floors(
        self, shifts_KD: NDArray[np.float64], factors: list[tuple[NDArray[np.float64], NDArray[np.float64]]]
    ) -> None:
        """Turn what no distance was below for the last parameters into the same for these."""
        for component, ((lower, inverse), (_, inverse_before)) in enumerate(zip(factors, self._factors, strict=True)):
            stretch = bound_stretch(inverse_before, lower, self.xp)
            shift = float(np.linalg.norm(inverse.T @ shifts_KD[component]))
            floor = (self._floors[:, component] / stretch - shift) * CARRIED_SHARE
            self._floors[:, component] = self.xp.maximum(floor, 0)


def bound_stretch(
    inverse_before_DD: NDArray[np.float64],
    lower_DD: NDArray[np.float64],
    xp: Any,  # noqa: ANN401 - the array module, numpy or cupy
) -> float:
    """Return an upper bound of |A^-1| = |L_old^-1 L_new| in the spectral norm.

    With E = A^-1 A^-T - I, |A^-1|^2 <= 1 + |E|, and |E| <= |E^4|_F^(1/4), which is within D^(1/8) of it.

    Args:
        inverse_before_DD: L_old^-T.
        lower_DD: L_new.
        xp: `numpy` or `cupy`.
    """
    product = xp.asarray(inverse_before_DD.T, dtype=np.float32) @ xp.asarray(lower_DD, dtype=np.float32)
    excess = product @ product.T
    excess -= xp.eye(len(excess), dtype=np.float32)
    bound = float(xp.linalg.norm(excess))
    if bound > LOOSE_STRETCH:
        return math.inf
    if bound > TIGHT_STRETCH:
        square = excess.T @ excess
        bound = min(bound, float(xp.linalg.norm(square.T @ square)) ** 0.25)
    return math.sqrt(1 + bound)
