"""Expectation-maximisation for Gaussian mixtures (Eq. 7) with full, tied or diagonal covariances.

The code runs on NumPy and on CuPy (`xp`). Both steps process the features in blocks: beside the features, they need
memory for [N, K] values and a few covariances.

Shape suffixes: N faces, D features, K components. Likelihoods are in nats.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from scorer.fitting.em_full import FullSteps
from scorer.fitting.em_shared import Array, Parameters, SingularCovariance, to_host
from scorer.fitting.em_simple import DiagonalSteps, TiedSteps
from scorer.fitting.shapes import Covariance

TOLERANCE_NATS = 1e-3  # per face; scikit-learn's default
MAX_ITERATIONS = 200
# In single precision a change of the bound below this share of the bound is rounding, so iteration stops.
SINGLE_PRECISION_TOLERANCE = 1e-6
MIN_COMPONENT_FACES = 1e-6


@dataclass(frozen=True, slots=True)
class EmProgress:
    """One iteration: its number, the mean log-likelihood per face before its update, and the change of that value."""

    iteration: int
    bound_nats: float
    change_nats: float


@dataclass(frozen=True, slots=True, eq=False)
class EmFit:
    """The result of EM.

    Attributes:
        weights: [K].
        means: [K, D].
        covariances: [K, D, D] (full), [D, D] (tied) or [K, D] (diag).
        bound_nats: mean log-likelihood per face before the last update (scikit-learn's `lower_bound_`). If converged,
            the value of these parameters is higher by less than the tolerance.
        faces: [K], the sum of each component's responsibilities.
        iterations: of both precisions together.
        converged: whether the last change of the bound was below the tolerance.
    """

    weights: NDArray[np.float64]
    means: NDArray[np.float64]
    covariances: NDArray[np.float64]
    bound_nats: float
    faces: NDArray[np.float64]
    iterations: int
    converged: bool


class EmSteps(Protocol):
    """The E step and the M step for one kind of covariance.

    Attributes:
        precisions: data types of the iterations; each is used until it has converged.
    """

    precisions: ClassVar[tuple[type[np.floating[Any]], ...]]

    def maximise(self, responsibilities_NK: Array, dtype: type[np.floating[Any]]) -> Parameters:
        """Return the parameters of maximum likelihood under these responsibilities (M step)."""

    def expect(self, parameters: Parameters, dtype: type[np.floating[Any]]) -> Array:
        """Return [N, K]: log weight + log density, -inf where the responsibility rounds to zero (E step)."""


def make_steps(
    features_ND: Array,
    covariance: Covariance,
    variance_added: float,
    xp: Any,  # noqa: ANN401 - the array module, numpy or cupy
) -> EmSteps:
    """Return the steps for one kind of covariance."""
    kinds: dict[Covariance, Callable[[Array, float, Any], EmSteps]] = {
        "full": FullSteps,
        "tied": TiedSteps,
        "diag": DiagonalSteps,
    }
    return kinds[covariance](features_ND, variance_added, xp)


def normalise_joint(joint_NK: Array, xp: Any) -> tuple[float, Array]:  # noqa: ANN401 - the array module
    """Return the mean log-likelihood and the responsibilities [N, K]."""
    peak = joint_NK.max(axis=1, keepdims=True)
    shares = xp.exp(joint_NK - peak)
    total = shares.sum(axis=1, keepdims=True)
    return float((peak + xp.log(total)).mean()), shares / total


def fit_em(  # noqa: PLR0913 - the settings of one fit, all but the first four by keyword
    features_ND: NDArray[np.floating],
    responsibilities_NK: NDArray[np.floating],
    covariance: Covariance,
    variance_added: float,
    *,
    tolerance_nats: float = TOLERANCE_NATS,
    max_iterations: int = MAX_ITERATIONS,
    xp: Any = np,  # noqa: ANN401 - the array module, numpy or cupy
    report: Callable[[EmProgress], None] = lambda _: None,
) -> EmFit:
    """Iterate from the given responsibilities until the bound changes by less than `tolerance_nats`.

    Args:
        features_ND: in any floating precision; they are copied to the GPU only.
        responsibilities_NK: each row has the sum 1.
        covariance: "full", "tied" or "diag".
        variance_added: to the diagonal of every covariance (scikit-learn's `reg_covar`).
        tolerance_nats: per face.
        max_iterations: in each precision.
        xp: `numpy` or `cupy`.
        report: called after each iteration.

    Raises:
        ValueError: a feature is not finite, a component lost all its faces, or a covariance is singular.
    """
    features = xp.asarray(features_ND)
    if not bool(xp.isfinite(features.sum(axis=0, dtype=np.float64)).all()):
        message = "a face has a feature that is not finite: check the engine and the photographs"
        raise ValueError(message)
    steps = make_steps(features, covariance, variance_added, xp)
    responsibilities = xp.asarray(responsibilities_NK, dtype=np.float64)
    check_components(to_host(responsibilities.sum(axis=0)))
    iterations = 0
    # A single component needs one step only: single precision would save nothing.
    for dtype in steps.precisions if responsibilities.shape[1] > 1 else steps.precisions[-1:]:
        last = dtype is steps.precisions[-1]
        bound, converged = -np.inf, False
        for _ in range(max_iterations):
            try:
                parameters = steps.maximise(responsibilities, dtype)
                joint = steps.expect(parameters, dtype)
            except SingularCovariance:
                if last:
                    raise
                break  # it can be regular in double precision
            before, (bound, responsibilities) = bound, normalise_joint(joint, xp)
            iterations += 1
            change = bound - before
            report(EmProgress(iterations, bound, change))
            check_components(to_host(responsibilities.sum(axis=0)))
            # scikit-learn's rule. In single precision a falling bound is rounding, so it counts as converged too.
            converged = (
                abs(change) < tolerance_nats
                if last
                else change < max(tolerance_nats, SINGLE_PRECISION_TOLERANCE * abs(bound))
            )
            if converged:
                break
    # One more M step, as in scikit-learn, so that both return the same parameters.
    parameters = steps.maximise(responsibilities, steps.precisions[-1])
    return EmFit(
        parameters.weights,
        parameters.means,
        parameters.covariances,
        bound,
        to_host(responsibilities.sum(axis=0)),
        iterations,
        converged,
    )


def check_components(faces_K: NDArray[np.floating]) -> None:
    """Refuse responsibilities that leave a component without faces: its parameters would be undefined.

    Raises:
        ValueError: there is such a component.
    """
    lost, components = int((faces_K < MIN_COMPONENT_FACES).sum()), len(faces_K)
    if lost:
        message = (
            f"{lost} of {components} components lost all their faces: "
            f"fit {components - lost} components, or start from another seed"
        )
        raise ValueError(message)
