"""Calibration: the log-likelihoods of held-out photographs, and the false-alarm rates that they support."""

import math
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta, binom, t

from scorer.bundle.calibration import split_by_stratum
from scorer.decide import CONFIDENCE, flagged_rank, photographs_needed
from scorer.fitting.em_shared import blocks
from scorer.mixture import GaussianMixture, log_likelihood, stack_mixture
from scorer.strata import Stratum

RATES = (0.05, 0.01, 0.001)
GOLDEN_TOLERANCE_SHARE = 0.05  # of the interquartile range, which an outlier does not widen
ASSUMPTION = (
    "Photographs are assumed to be exchangeable. Faces of one photograph are not assumed to be independent: they lower "
    "the effective number of faces. Photographs of one source resemble each other too, so the intervals are valid for "
    "new photographs of these sources. An unknown source can cause more false alarms."
)


@dataclass(frozen=True, slots=True)
class Threshold:
    """The log-likelihood below which a face is flagged at a false-alarm rate, with 95 % confidence intervals.

    Attributes:
        rate: the requested false-alarm rate, per face.
        nats: exactly the faces below it have a p-value of at most `rate`.
        nats_low: lower end of the interval of the threshold that has exactly `rate` on infinitely many photographs, by
            order statistics; `nats_high` is the upper end.
        rate_low: lower end of the interval of the false-alarm rate that `nats` has on infinitely many photographs, by
            the beta distribution of an order statistic's coverage; `rate_high` is the upper end.
    """

    rate: float
    nats: float
    nats_low: float
    nats_high: float
    rate_low: float
    rate_high: float


def score_held_out(mixture: GaussianMixture, features_ND: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the log-likelihoods [n] of held-out faces in nats, computed as the scorer computes them.

    Raises:
        ValueError: there is no face, or one has no finite log-likelihood, which would corrupt every p-value.
    """
    stacked = stack_mixture(mixture)
    if not len(features_ND):
        message = "there is no face to calibrate on: the role calibrate is empty"
        raise ValueError(message)
    values = np.concatenate([log_likelihood(features_ND[block], stacked) for block in blocks(len(features_ND))])
    if not np.isfinite(values).all():
        message = "a calibration face has no finite log-likelihood: check the engine and the photographs"
        raise ValueError(message)
    return values.astype(np.float64)


@dataclass(frozen=True, slots=True, eq=False)
class HeldOutFaces:
    """Held-out faces and their copies: [N] log-likelihoods in nats, the photograph of each, and the stratum of each."""

    values: NDArray[np.float64]
    photos: NDArray[np.str_]
    strata: NDArray[np.str_]


def describe_strata(
    held_out: HeldOutFaces,
) -> tuple[dict[Stratum, NDArray[np.float64]], dict[str, dict[str, object]]]:
    """Return the ascending log-likelihoods of each sufficient stratum, and what `calibration.json` states of all."""
    split, photographs = split_by_stratum(held_out.values, held_out.photos, held_out.strata)
    described: dict[str, dict[str, object]] = {}
    for stratum, count in photographs.items():
        rows = held_out.strata == stratum.value
        size = {"faces": int(rows.sum()), "photographs": count, "used": stratum in split}
        described[stratum.value] = size | describe_thresholds(held_out.values[rows], held_out.photos[rows])
    return split, described


def effective_faces(values_N: NDArray[np.float64], photos_N: NDArray[np.str_], threshold: float) -> float:
    """Return the number of independent faces that would estimate the rate under `threshold` as precisely as these."""
    _, of = np.unique(photos_N, return_inverse=True)
    return effective_cases(values_N <= threshold, of)


def effective_cases(hits_N: NDArray[np.bool_], clusters_N: NDArray[np.integer]) -> float:
    """Return the number of independent faces that would estimate the share of hits as precisely as these.

    Kish's effective sample size: the number of faces over the design effect, which is the variance of the share with
    clusters over that of independent faces (Korn and Graubard, 1998). At most the number of faces, at least the number
    of clusters over their largest number of faces; the number of clusters if there is no hit or only hits.

    Args:
        hits_N: what is counted.
        clusters_N: the cluster of each face, numbered from 0 without gaps: faces of one cluster are not independent.
    """
    count, faces = len(hits_N), np.bincount(clusters_N)
    clusters, share = len(faces), float(hits_N.mean())
    if clusters == count or share in {0.0, 1.0}:
        return float(clusters)
    residuals = np.bincount(clusters_N, weights=hits_N - share)
    between = clusters / (clusters - 1) * float((residuals**2).sum()) / count**2
    independent = share * (1 - share) / between if between else math.inf  # all clusters may have the same share
    return min(float(count), max(independent, clusters / float(faces.max())))


def clustered_interval(hits_N: NDArray[np.bool_], clusters_N: NDArray[np.integer]) -> tuple[float, float]:
    """Return the 95 % interval of a share: Clopper and Pearson's for the effective number of faces.

    Few clusters estimate their own variance poorly: the number is lowered by the ratio of the quantiles of Student's
    t, as Korn and Graubard do.
    """
    cases, tail = effective_cases(hits_N, clusters_N), (1 - CONFIDENCE) / 2
    share, clusters = float(hits_N.mean()), int(clusters_N.max()) + 1
    if clusters > 1 and clusters < len(hits_N) and 0 < share < 1:
        cases *= float(t.ppf(tail, len(hits_N) - 1) / t.ppf(tail, clusters - 1)) ** 2
    hits, others = share * cases, (1 - share) * cases
    low = float(beta.ppf(tail, hits, others + 1)) if hits else 0.0
    return low, float(beta.ppf(1 - tail, hits + 1, others)) if others else 1.0


def measure_threshold(values_N: NDArray[np.float64], photos_N: NDArray[np.str_], rate: float) -> Threshold | str:
    """Return the threshold of a false-alarm rate, or the reason why there is none.

    Args:
        values_N: log-likelihoods of held-out faces in nats, in any order.
        photos_N: the photograph of each.
        rate: per face.
    """
    count, photographs, needed = len(values_N), len(np.unique(photos_N)), photographs_needed(rate)
    if photographs < needed:
        return f"n = {photographs} cannot support {100 * rate:g} %: at least {needed} photographs are needed"
    ordered = np.sort(values_N)
    rank, tail = flagged_rank(count, rate), (1 - CONFIDENCE) / 2
    effective = min(effective_faces(values_N, photos_N, ordered[rank - 1]), count)
    share = rank / (count + 1)
    rate_low, rate_high = beta.ppf([tail, 1 - tail], share * (effective + 1), (1 - share) * (effective + 1))
    # The ranks among the effective number of faces, then scaled to all faces.
    whole = math.floor(effective)
    low, high = (float(end) for end in binom.ppf([tail, 1 - tail], whole, rate))
    ranks = math.floor(low * count / whole), min(math.ceil((high + 1) * count / whole), count)
    if ranks[0] < 1:
        return (
            f"n = {photographs} cannot support {100 * rate:g} %: faces of one photograph resemble each other, so they "
            f"count as {effective:.0f} independent faces; add photographs (at least {needed} are needed)"
        )
    return Threshold(
        rate=rate,
        nats=float(ordered[rank - 1]),
        nats_low=float(ordered[ranks[0] - 1]),
        nats_high=float(ordered[ranks[1] - 1]),
        rate_low=float(rate_low),
        rate_high=float(rate_high),
    )


def describe_calibration(values_N: NDArray[np.float64], photos_N: NDArray[np.str_]) -> dict[str, object]:
    """Return the content of `calibration.json` on all photographs."""
    return {
        "faces": len(values_N),
        "photographs": len(np.unique(photos_N)),
        "confidence": CONFIDENCE,
        "assumption": ASSUMPTION,
    } | describe_thresholds(values_N, photos_N)


def describe_thresholds(values_N: NDArray[np.float64], photos_N: NDArray[np.str_]) -> dict[str, object]:
    """Return the thresholds of the target rates, and why the others have none."""
    measured = {f"{rate:g}": measure_threshold(values_N, photos_N, rate) for rate in RATES}
    return {
        "thresholds": {name: asdict(found) for name, found in measured.items() if isinstance(found, Threshold)},
        "refused": {name: found for name, found in measured.items() if isinstance(found, str)},
    }


def choose_golden_tolerance(values_N: NDArray[np.float64]) -> float:
    """Return how far in nats a golden face may be from its result on another processor, by the calibration's spread."""
    return round(GOLDEN_TOLERANCE_SHARE * float(np.subtract(*np.percentile(values_N, [75, 25]))), 2)
