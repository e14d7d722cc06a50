"""The metrics of an evaluation as functions of log-likelihoods.

A low log-likelihood counts as a detection. "Photographs" and "others" are [n] and [m] log-likelihoods in nats.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LogLikelihoods = NDArray[np.float64]
BOOTSTRAPS = 1000
NORMAL_95 = 1.959964  # the standard normal's 97.5 % point


@dataclass(frozen=True, slots=True)
class Rate:
    """A share or an AUC with its 95 % interval and its number of faces."""

    value: float
    low: float
    high: float
    count: int


def auc(photographs: LogLikelihoods, others: LogLikelihoods) -> float:
    """Return the probability that one of `others` is less likely than one of `photographs`; ties count half."""
    ordered = np.sort(photographs)
    at_most = (np.searchsorted(ordered, others, "left") + np.searchsorted(ordered, others, "right")) / 2
    return float(1 - at_most.mean() / len(photographs))


def bootstrap_auc(
    photographs: LogLikelihoods, groups: NDArray[np.str_], others: LogLikelihoods, seed: int = 2024
) -> Rate:
    """Return the AUC with a percentile bootstrap; faces of one photograph (`groups`) are drawn together."""
    rng = np.random.default_rng(seed)
    order = np.argsort(photographs)
    names, index = np.unique(groups, return_inverse=True)
    left, right = (np.searchsorted(photographs[order], others, side) for side in ("left", "right"))
    draws = np.empty(BOOTSTRAPS)
    for draw in range(BOOTSTRAPS):
        # A bootstrap sample is represented by the count of each photograph in it.
        counts = np.bincount(rng.integers(len(names), size=len(names)), minlength=len(names))
        below = np.concatenate([[0], np.cumsum(counts[index][order])])
        chosen = rng.integers(len(others), size=len(others))
        draws[draw] = 1 - (below[left] + below[right])[chosen].mean() / 2 / below[-1]
    low, high = np.quantile(draws, [0.025, 0.975])
    return Rate(auc(photographs, others), float(low), float(high), len(others))


def wilson(hits: int, count: int, cases: int | None = None) -> Rate:
    """Return `hits / count` with Wilson's interval.

    Args:
        hits: number of counted faces.
        count: number of all faces.
        cases: number of independent cases among them; `count` by default.
    """
    n, share, z = cases or count, hits / count, NORMAL_95
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return Rate(share, max(0.0, float(centre - half)), min(1.0, float(centre + half)), count)


def roc_curve(photographs: LogLikelihoods, others: LogLikelihoods) -> tuple[LogLikelihoods, LogLikelihoods]:
    """Return false-alarm and detection rates of all thresholds, from 0 to 1; values up to a threshold are flagged."""
    thresholds = np.unique(np.concatenate([photographs, others]))
    shares = (
        np.concatenate([[0.0], np.searchsorted(np.sort(values), thresholds, "right") / len(values)])
        for values in (photographs, others)
    )
    alarms, found = shares
    return alarms, found


def equal_error_rate(photographs: LogLikelihoods, others: LogLikelihoods) -> float:
    """Return the rate at which the share of photographs flagged equals the share of the others not flagged."""
    alarms, found = roc_curve(photographs, others)
    excess = alarms - (1 - found)
    after = int(np.argmax(excess >= 0))
    part = -excess[after - 1] / (excess[after] - excess[after - 1])
    return float(alarms[after - 1] + part * (alarms[after] - alarms[after - 1]))


def average_precision(positives: LogLikelihoods, negatives: LogLikelihoods) -> float:
    """Return the average precision of `positives` by high values: the sum of precision times increase of recall."""
    values = np.unique(np.concatenate([positives, negatives]))[::-1]
    found, wrong = (len(sample) - np.searchsorted(np.sort(sample), values, "left") for sample in (positives, negatives))
    return float((np.diff(found, prepend=0) * found / (found + wrong)).sum() / len(positives))
