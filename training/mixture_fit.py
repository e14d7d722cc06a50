"""Fit the Gaussian mixture of photographs' features; its shape is chosen by held-out likelihood.

Shape suffixes: N faces, D features, K components.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.mixture import GaussianMixture as Estimator

from scorer.mixture import GaussianMixture, log_likelihood, stack_mixture
from training.recipes import MixtureRule, MixtureShape


@dataclass(frozen=True, slots=True, eq=False)
class FittedMixture:
    """A mixture and how it was chosen.

    Attributes:
        mixture: factors rounded to half precision, as the bundle stores them.
        shape: the chosen shape.
        roles: whose photographs were fitted.
        held_out_nats: mean log-likelihood per face of sources left out of the fit, by candidate.
    """

    mixture: GaussianMixture
    shape: MixtureShape
    roles: tuple[str, ...]
    held_out_nats: dict[str, float]


def fit_shape(features_ND: NDArray[np.floating], shape: MixtureShape, rule: MixtureRule) -> GaussianMixture:
    """Fit one shape by EM.

    A full covariance of a few hundred faces in 768 dimensions is singular: its off-diagonal part is
    multiplied by `1 - shape.shrinkage`, and `rule.variance_floor` of the mean variance is added.

    Raises:
        ValueError: there are fewer faces than components.
    """
    features = np.asarray(features_ND, dtype=np.float64)
    estimator: Any = Estimator(
        shape.components,
        covariance_type=shape.covariance,
        reg_covar=rule.variance_floor * features.var(axis=0).mean(),
        init_params="k-means++",
        random_state=rule.seed,
        max_iter=200,
    ).fit(features)
    if shape.covariance == "diag":
        factors = estimator.precisions_cholesky_
    else:
        diagonal = np.eye(features.shape[1])
        keep = 1 - shape.shrinkage * (1 - diagonal)
        factors = np.stack([np.linalg.inv(np.linalg.cholesky(matrix * keep)).T for matrix in estimator.covariances_])
    return GaussianMixture(
        weights=estimator.weights_.astype(np.float32),
        means=estimator.means_.astype(np.float32),
        # Half precision halves the bundle's largest array; the rounded mixture is the one that is calibrated.
        precisions_cholesky=factors.astype(np.float16),
    )


def mean_log_likelihood(mixture: GaussianMixture, features_ND: NDArray[np.floating]) -> float:
    """Return the mean over faces in nats, in double precision."""
    return float(log_likelihood(features_ND, stack_mixture(mixture, np.float64)).mean())


def choose_mixture(
    features: dict[str, NDArray[np.floating]], sources: dict[str, NDArray[np.str_]], rule: MixtureRule
) -> FittedMixture:
    """Compare the rule's shapes and role sets on sources of the role `fit`, each left out in turn; refit the best.

    Args:
        features: [N, D] by role.
        sources: [N] by role.
        rule: candidates and seed.
    """
    judged = np.unique(sources["fit"])
    scores: dict[str, float] = {}
    best: tuple[float, MixtureShape, tuple[str, ...]] | None = None
    for roles in rule.role_sets:
        pool = np.concatenate([features[role] for role in roles])
        origin = np.concatenate([sources[role] for role in roles])
        for shape in rule.shapes:
            totals = []
            for source in judged:
                mixture = fit_shape(pool[origin != source], shape, rule)
                held_out = features["fit"][sources["fit"] == source]
                totals.append(mean_log_likelihood(mixture, held_out) * len(held_out))
            score = sum(totals) / len(features["fit"])
            scores[f"{'+'.join(roles)} {describe(shape)}"] = round(score, 2)
            if best is None or score > best[0]:
                best = (score, shape, roles)
    if best is None:
        message = "the recipe's mixture rule names no candidate"
        raise ValueError(message)
    _, shape, roles = best
    return FittedMixture(
        fit_shape(np.concatenate([features[role] for role in roles]), shape, rule), shape, roles, scores
    )


def describe(shape: MixtureShape) -> str:
    """Return a shape in a few characters, for tables."""
    fields = asdict(shape)
    return f"{fields['covariance']} K={fields['components']}" + (
        f" shrinkage={fields['shrinkage']:g}" if shape.covariance == "full" else ""
    )
