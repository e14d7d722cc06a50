"""Held-out photographs' log-likelihoods: what p-values are counted against, and which false-alarm rates they bear."""

import hashlib
import math
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta, binom

from scorer.decide import CONFIDENCE, photographs_needed
from scorer.mixture import GaussianMixture, log_likelihood, stack_mixture
from training.mixture.em_shared import blocks

RATES = (0.05, 0.01, 0.001)
ASSUMPTION = (
    "Photographs are taken as exchangeable; faces of one photograph are not taken as independent of each other: they "
    "lower the effective number of faces. Photographs of one source resemble each other too, so the intervals hold "
    "for new photographs of these sources. A source never seen can raise more false alarms."
)


@dataclass(frozen=True, slots=True)
class Threshold:
    """The log-likelihood below which a face is flagged at a false-alarm rate, and how sure that is.

    Attributes:
        rate: the false-alarm rate that was asked for, per face.
        nats: a face below it has a p-value of at most `rate`, and no other face.
        nats_low: where the threshold lies that has exactly `rate` on endless photographs, by the order statistics of
            these, with 95 % confidence; `nats_high` likewise.
        rate_low: the false-alarm rate that `nats` has on endless photographs, with 95 % confidence: the beta
            distribution of the coverage of an order statistic. `rate_high` likewise.
    """

    rate: float
    nats: float
    nats_low: float
    nats_high: float
    rate_low: float
    rate_high: float


def score_held_out(mixture: GaussianMixture, features_ND: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the log-likelihoods [n] of held-out photographs' faces in nats, as serving computes them.

    Raises:
        ValueError: a face has none, which would poison every p-value, or there is no face.
    """
    stacked = stack_mixture(mixture)
    if not len(features_ND):
        message = "no face to calibrate on: the role calibrate is empty"
        raise ValueError(message)
    values = np.concatenate([log_likelihood(features_ND[block], stacked) for block in blocks(len(features_ND))])
    if not np.isfinite(values).all():
        message = "a calibration face has no finite log-likelihood: look for a broken engine or photograph"
        raise ValueError(message)
    return values.astype(np.float64)


def calibrate(mixture: GaussianMixture, features_ND: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the values of `score_held_out` in ascending order: what a bundle stores."""
    return np.sort(score_held_out(mixture, features_ND))


def flagged_rank(count: int, rate: float) -> int:
    """Return how many of `count` held-out faces lie at or below the threshold of `rate`.

    A face's p-value is (1 + held-out faces at most as likely) / (count + 1), `scorer.decide.p_values`; it is at most
    `rate` when the face is less likely than the held-out face of this rank.
    """
    rank = math.floor(rate * (count + 1))
    # The same division as the p-value's: 0.05 * 20 may round to either side of 1.
    return rank + 1 if (rank + 1) / (count + 1) <= rate else rank - (rank / (count + 1) > rate)


def count_effective(values_N: NDArray[np.float64], photos_N: NDArray[np.str_], threshold: float) -> float:
    """Return how many independent faces would tell as much about the rate under `threshold` as these do.

    Kish's effective size: the faces over the design effect, which compares the variance of the rate between
    photographs with that between independent faces (Korn and Graubard, 1998). Never more than there are faces, never
    fewer than there are photographs over their largest number of faces.
    """
    count, flagged = len(values_N), (values_N <= threshold).astype(np.float64)
    _, of, faces = np.unique(photos_N, return_inverse=True, return_counts=True)
    photographs, rate = len(faces), float(flagged.mean())
    if photographs == count or rate in {0.0, 1.0}:
        return float(photographs)
    residuals = np.bincount(of, weights=flagged - rate)
    between = photographs / (photographs - 1) * float((residuals**2).sum()) / count**2
    return min(float(count), max(rate * (1 - rate) / between, photographs / float(faces.max())))


def measure_threshold(values_N: NDArray[np.float64], photos_N: NDArray[np.str_], rate: float) -> Threshold | str:
    """Return the threshold of a false-alarm rate, or the sentence that says why there is none.

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
    effective = min(count_effective(values_N, photos_N, ordered[rank - 1]), count)
    share = rank / (count + 1)
    rate_low, rate_high = beta.ppf([tail, 1 - tail], share * (effective + 1), (1 - share) * (effective + 1))
    # Ranks among as many independent faces, then among all.
    whole = math.floor(effective)
    low, high = (float(end) for end in binom.ppf([tail, 1 - tail], whole, rate))
    ranks = math.floor(low * count / whole), min(math.ceil((high + 1) * count / whole), count)
    if ranks[0] < 1:
        return (
            f"n = {photographs} cannot support {100 * rate:g} %: faces of one photograph resemble each other, so that "
            f"they are worth {effective:.0f}, and at least {needed} photographs are needed"
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
    """Return the JSON-able content of `calibration.json`."""
    measured = {f"{rate:g}": measure_threshold(values_N, photos_N, rate) for rate in RATES}
    return {
        "faces": len(values_N),
        "photographs": len(np.unique(photos_N)),
        "confidence": CONFIDENCE,
        "assumption": ASSUMPTION,
        "thresholds": {name: asdict(found) for name, found in measured.items() if isinstance(found, Threshold)},
        "refused": {name: found for name, found in measured.items() if isinstance(found, str)},
    }


def name_calibration(values: NDArray[np.float64]) -> str:
    """Return a short name that changes with any value."""
    return hashlib.sha256(values.astype("<f8").tobytes()).hexdigest()[:12]
