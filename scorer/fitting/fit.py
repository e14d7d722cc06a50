"""Fit the Gaussian mixture of photographs' features (Eq. 7, section II-B); held-out likelihood chooses its shape.

Shape suffixes: N faces, D features, K components.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ingest.device import DeviceUnavailable, Request, load_array_module, resolve_device
from scorer.fitting.em import EmFit, EmProgress, fit_em
from scorer.fitting.em_shared import blocks, factorise
from scorer.fitting.seeding import seed_responsibilities
from scorer.fitting.shapes import MixtureRule, MixtureShape
from scorer.mixture import GaussianMixture, log_likelihood, stack_mixture

MAX_FOLDS = 10
FP16 = np.finfo(np.float16)
Report = Callable[[str, EmProgress], None]


@dataclass(frozen=True, slots=True, eq=False)
class FittedMixture:
    """A mixture and the facts of its choice.

    Attributes:
        mixture: with factors rounded to half precision, as the bundle stores them.
        shape: the chosen shape.
        roles: the roles whose photographs were fitted.
        held_out_nats: mean log-likelihood per face of sources left out of the fit, by candidate; empty if the rule
            names a single candidate.
        refused: the reason why a candidate could not be fitted, by candidate.
        em: the result of EM, before shrinkage and rounding.
    """

    mixture: GaussianMixture
    shape: MixtureShape
    roles: tuple[str, ...]
    held_out_nats: dict[str, float]
    refused: dict[str, str]
    em: EmFit

    def notes(self) -> list[str]:
        """Return warnings about the fit, one sentence each."""
        notes = []
        if not self.em.converged:
            notes.append(f"EM stopped after {self.em.iterations} iterations without convergence of the bound")
        size = self.mixture.means.shape[1]
        small = int((self.em.faces <= size).sum())
        if self.shape.covariance == "full" and small and not self.shape.shrinkage:
            notes.append(
                f"{small} of {len(self.em.faces)} components have at most {size} faces, the number of features: "
                "their likelihoods depend on the variance that is added to every feature"
            )
        return notes


@dataclass(frozen=True, slots=True)
class Fitter:
    """Fits shapes by a rule.

    Attributes:
        rule: gives the added variances and the seed.
        xp: the array module that computes, `numpy` or `cupy`.
        report: called after each iteration with the mixture's name and the progress.
    """

    rule: MixtureRule
    xp: Any = np
    report: Report = lambda *_: None

    def fit(self, features_ND: NDArray[np.floating], shape: MixtureShape, name: str = "") -> EmFit:
        """Fit one shape by EM from k-means++ seeds.

        `rule.variance_floor` of the mean variance and `rule.variance_added` are added to every variance: a full
        covariance of a few hundred faces in 768 dimensions would be singular.

        Raises:
            ValueError: there are fewer faces than components, or too few for a covariance that has an inverse.
        """
        variance = self.rule.variance_floor * float(features_ND.var(axis=0, dtype=np.float64).mean())
        variance += self.rule.variance_added
        return fit_em(
            features_ND,
            seed_responsibilities(features_ND, shape.components, variance, self.rule.seed),
            shape.covariance,
            variance,
            xp=self.xp,
            report=partial(self.report, name or describe_shape(shape)),
        )


def make_mixture(fit: EmFit, shape: MixtureShape) -> GaussianMixture:
    """Return the mixture as the bundle stores it: factors shrunk, and rounded to half precision if their range allows.

    `shape.shrinkage` moves the correlations of full covariances towards zero. Half precision halves the bundle's
    largest array. The calibration uses the rounded mixture.

    Raises:
        SingularCovariance: a covariance has no inverse.
    """
    if shape.covariance == "diag":
        factors = 1 / np.sqrt(fit.covariances)
    else:
        keep = 1 - shape.shrinkage * (1 - np.eye(fit.means.shape[1]))
        covariances = fit.covariances.reshape(-1, *keep.shape)
        factors = np.stack([factorise(matrix * keep, fit.faces.sum())[1] for matrix in covariances])
        factors = np.broadcast_to(factors, (len(fit.weights), *keep.shape))
    diagonals = factors if shape.covariance == "diag" else np.diagonal(factors, axis1=1, axis2=2)
    fits_half = np.abs(factors).max() < FP16.max and diagonals.min() > FP16.tiny
    return GaussianMixture(
        weights=fit.weights.astype(np.float32),
        means=fit.means.astype(np.float32),
        precisions_cholesky=factors.astype(np.float16 if fits_half else np.float32),
    )


def mean_log_likelihood(mixture: GaussianMixture, features_ND: NDArray[np.floating]) -> float:
    """Return the mean over faces in nats, in double precision."""
    stacked = stack_mixture(mixture, np.float64)
    total = sum(float(log_likelihood(features_ND[block], stacked).sum()) for block in blocks(len(features_ND)))
    return total / len(features_ND)


def choose_mixture(
    features: dict[str, NDArray[np.floating]],
    sources: dict[str, NDArray[np.str_]],
    rule: MixtureRule,
    xp: Any = np,  # noqa: ANN401 - the array module, numpy or cupy
    report: Report = lambda *_: None,
) -> FittedMixture:
    """Compare the rule's shapes and role sets on held-out sources of the role `fit`; fit the best on all sources.

    A single candidate is fitted directly.

    Args:
        features: [N, D] by role.
        sources: [N] by role.
        rule: candidates and seed.
        xp: the array module that computes, `numpy` or `cupy`.
        report: called after each iteration with the mixture's name and the progress.

    Raises:
        ValueError: there is no candidate, there are several but a single source, or none could be fitted.
    """
    fitter = Fitter(rule, xp, report)
    candidates = list(product(rule.role_sets, rule.shapes))
    if not candidates:
        message = "the recipe's mixture rule contains no candidate"
        raise ValueError(message)
    held_out_nats: dict[str, float] = {}
    refused: dict[str, str] = {}
    best = candidates[0]
    if len(candidates) > 1:
        folds = split_sources(sources["fit"])
        for roles, shape in candidates:
            name = f"{'+'.join(roles)} {describe_shape(shape)}"
            try:
                held_out_nats[name] = round(score_candidate(features, sources, roles, shape, folds, fitter), 2)
            except ValueError as error:
                refused[name] = str(error)
                continue
            if held_out_nats[name] >= max(held_out_nats.values()):
                best = (roles, shape)
        if not held_out_nats:
            message = f"no candidate of the mixture rule could be fitted; first reason: {next(iter(refused.values()))}"
            raise ValueError(message)
    roles, shape = best
    em = fitter.fit(
        np.concatenate([features[role] for role in roles]), shape, f"{'+'.join(roles)} {describe_shape(shape)}"
    )
    return FittedMixture(make_mixture(em, shape), shape, roles, held_out_nats, refused, em)


def score_candidate(  # noqa: PLR0913, PLR0917 - the data, the candidate and the folds
    features: dict[str, NDArray[np.floating]],
    sources: dict[str, NDArray[np.str_]],
    roles: tuple[str, ...],
    shape: MixtureShape,
    folds: list[NDArray[np.str_]],
    fitter: Fitter,
) -> float:
    """Return the mean log-likelihood per face of the role `fit`; each fold of sources is scored by a fit without it."""
    pool = np.concatenate([features[role] for role in roles])
    origin = np.concatenate([sources[role] for role in roles])
    total = 0.0
    for number, fold in enumerate(folds, 1):
        name = f"{'+'.join(roles)} {describe_shape(shape)}, without part {number} of {len(folds)}"
        mixture = make_mixture(fitter.fit(pool[~np.isin(origin, fold)], shape, name), shape)
        held_out = features["fit"][np.isin(sources["fit"], fold)]
        total += mean_log_likelihood(mixture, held_out) * len(held_out)
    return total / len(features["fit"])


def choose_array_module(request: Request = "auto") -> tuple[Any, str]:
    """Return the array module for the fit, and the reason of the choice; "auto" without CuPy is NumPy.

    Raises:
        DeviceUnavailable: "cuda" was requested, but there is no working GPU or CuPy is not installed.
    """
    device = resolve_device(request)
    try:
        return load_array_module(device.kind), device.reason
    except DeviceUnavailable as error:
        if request == "cuda":
            raise
        return np, str(error)


def split_sources(sources_N: NDArray[np.str_], most: int = MAX_FOLDS) -> list[NDArray[np.str_]]:
    """Return folds of sources with similar numbers of faces: one for each source, but at most `most`.

    Raises:
        ValueError: there is a single source.
    """
    names, faces = np.unique(sources_N, return_counts=True)
    if len(names) < 2:  # noqa: PLR2004 - one to fit, one to score
        message = (
            f"the role fit has {len(names)} source, so mixtures cannot be compared on a held-out source: "
            "prepare more sources, or give a single shape and role set in the recipe"
        )
        raise ValueError(message)
    folds: list[list[str]] = [[] for _ in range(min(len(names), most))]
    sizes = np.zeros(len(folds))
    for index in np.argsort(-faces, kind="stable"):
        smallest = int(sizes.argmin())
        folds[smallest].append(names[index])
        sizes[smallest] += faces[index]
    return [np.array(fold) for fold in folds]


def describe_shape(shape: MixtureShape) -> str:
    """Return a shape in a few characters, for tables."""
    fields = asdict(shape)
    return f"{fields['covariance']} K={fields['components']}" + (
        f" shrinkage={fields['shrinkage']:g}" if shape.covariance == "full" else ""
    )
