"""Fit the Gaussian mixture of photographs' features (Eq. 7, section II-B); held-out likelihood chooses its shape.

Shape suffixes: N faces, D features, K components.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
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
from scorer.mixture import GaussianMixture, StackedMixture, log_likelihood, stack_mixture

MAX_FOLDS = 10
FALSE_ALARM_RATE = 0.05  # as in the paper (section III-A)
FP16 = np.finfo(np.float16)
Report = Callable[[str, EmProgress], None]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A mixture to compare: the roles whose photographs it is fitted on, and its shape."""

    roles: tuple[str, ...]
    shape: MixtureShape

    def __str__(self) -> str:
        return f"{'+'.join(self.roles)} {describe_shape(self.shape)}"


@dataclass(frozen=True, slots=True)
class HeldOut:
    """How a candidate describes photographs of sources that were left out of its fit.

    Attributes:
        nats: mean log-likelihood per face; the candidate with the largest is chosen.
        alarms: share of the faces below the 5th percentile of the fitted faces, the paper's threshold.
    """

    nats: float
    alarms: float


@dataclass(frozen=True, slots=True, eq=False)
class FittedMixture:
    """A mixture and the facts of its choice.

    Attributes:
        mixture: with factors rounded to half precision, as the bundle stores them.
        candidate: what was fitted.
        held_out: by candidate; empty if the rule names a single candidate.
        refused: the reason why a candidate could not be fitted, by candidate.
        em: the result of EM, before shrinkage and rounding.
    """

    mixture: GaussianMixture
    candidate: Candidate
    held_out: dict[Candidate, HeldOut]
    refused: dict[Candidate, str]
    em: EmFit

    def best_by_components(self) -> dict[int, Candidate]:
        """Return the best candidate of each number of components, ascending; empty if the rule names one number."""
        ordered = sorted(self.held_out, key=lambda each: (each.shape.components, self.held_out[each].nats))
        best = {candidate.shape.components: candidate for candidate in ordered}
        return best if len(best) > 1 else {}

    def notes(self) -> list[str]:
        """Return warnings about the fit, one sentence each."""
        notes = []
        if not self.em.converged:
            notes.append(f"EM stopped after {self.em.iterations} iterations without convergence of the bound")
        size = self.mixture.means.shape[1]
        small = int((self.em.faces <= size).sum())
        shape = self.candidate.shape
        if shape.covariance == "full" and small and not shape.shrinkage:
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


def score_blocks(mixture: StackedMixture, features_ND: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return log-likelihoods [N] in nats, a block of faces at a time."""
    return np.concatenate([log_likelihood(features_ND[block], mixture) for block in blocks(len(features_ND))])


def choose_mixture(
    features: dict[str, NDArray[np.floating]],
    sources: dict[str, NDArray[np.str_]],
    fitter: Fitter,
) -> FittedMixture:
    """Compare the rule's shapes and role sets on held-out sources of the role `fit`; fit the best on all sources.

    A single candidate is fitted directly.

    Args:
        features: [N, D] by role.
        sources: [N] by role.
        fitter: fits by the rule that names the candidates.

    Raises:
        ValueError: there is no candidate, there are several but a single source, or none could be fitted.
    """
    rule = fitter.rule
    candidates = [Candidate(roles, shape) for roles, shape in product(rule.role_sets, rule.shapes)]
    if not candidates:
        message = "the recipe's mixture rule contains no candidate"
        raise ValueError(message)
    held_out: dict[Candidate, HeldOut] = {}
    refused: dict[Candidate, str] = {}
    best = candidates[0]
    if len(candidates) > 1:
        folds = split_sources(sources["fit"])
        for candidate in candidates:
            try:
                held_out[candidate] = score_candidate(features, sources, candidate, folds, fitter)
            except ValueError as error:
                refused[candidate] = str(error)
                continue
            if held_out[candidate].nats >= max(each.nats for each in held_out.values()):
                best = candidate
        if not held_out:
            message = f"no candidate of the mixture rule could be fitted; first reason: {next(iter(refused.values()))}"
            raise ValueError(message)
    em = fit_candidate(features, best, fitter)
    return FittedMixture(make_mixture(em, best.shape), best, held_out, refused, em)


def fit_candidate(features: dict[str, NDArray[np.floating]], candidate: Candidate, fitter: Fitter) -> EmFit:
    """Fit a candidate on all faces of its roles.

    Raises:
        ValueError: as `Fitter.fit`.
    """
    return fitter.fit(np.concatenate([features[role] for role in candidate.roles]), candidate.shape, str(candidate))


def score_candidate(
    features: dict[str, NDArray[np.floating]],
    sources: dict[str, NDArray[np.str_]],
    candidate: Candidate,
    folds: list[NDArray[np.str_]],
    fitter: Fitter,
) -> HeldOut:
    """Score the faces of the role `fit`; each fold of sources is scored by a fit without it."""
    pool = np.concatenate([features[role] for role in candidate.roles])
    origin = np.concatenate([sources[role] for role in candidate.roles])
    total, alarms = 0.0, 0
    for number, fold in enumerate(folds, 1):
        fitted = pool[~np.isin(origin, fold)]
        name = f"{candidate}, without part {number} of {len(folds)}"
        stacked = stack_mixture(make_mixture(fitter.fit(fitted, candidate.shape, name), candidate.shape), np.float64)
        values, known = (
            score_blocks(stacked, rows) for rows in (features["fit"][np.isin(sources["fit"], fold)], fitted)
        )
        total += float(values.sum())
        alarms += int((values < np.quantile(known, FALSE_ALARM_RATE)).sum())
    count = len(features["fit"])
    return HeldOut(round(total / count, 2), round(alarms / count, 4))


def replace_components(rule: MixtureRule, components: Sequence[int]) -> MixtureRule:
    """Return the rule with these numbers of components, for each kind of covariance and shrinkage that it names."""
    kinds = dict.fromkeys((shape.covariance, shape.shrinkage) for shape in rule.shapes)
    shapes = (MixtureShape(covariance, count, shrinkage) for covariance, shrinkage in kinds for count in components)
    return replace(rule, shapes=tuple(shapes))


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
