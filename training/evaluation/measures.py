"""The metrics of an evaluation as functions of p-values or log-likelihoods.

A low value counts as a detection. "Photographs" and "others" are [n] and [m] p-values, or log-likelihoods in nats.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scorer.fitting.calibrate import clustered_interval

LogLikelihoods = NDArray[np.float64]
BOOTSTRAPS = 1000


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


def bootstrap_aucs(
    photographs: LogLikelihoods, clusters: NDArray[np.str_], others: Mapping[str, LogLikelihoods], seed: int = 2024
) -> tuple[dict[str, Rate], Rate]:
    """Return the AUC of each of `others` and their unweighted mean, with percentile bootstraps.

    Photographs of one cluster are drawn together, and one draw of them serves all of `others`.

    Args:
        photographs: values of photographs.
        clusters: the photograph or the source of each.
        others: values by generator; one or more.
        seed: of the draws.
    """
    rng = np.random.default_rng(seed)
    order = np.argsort(photographs)
    names, index = np.unique(clusters, return_inverse=True)
    places = [
        [np.searchsorted(photographs[order], values, side) for side in ("left", "right")] for values in others.values()
    ]
    draws = np.empty((BOOTSTRAPS, len(others)))
    for draw in draws:
        # A bootstrap sample is represented by the count of each cluster in it.
        counts = np.bincount(rng.integers(len(names), size=len(names)), minlength=len(names))
        below = np.concatenate([[0], np.cumsum(counts[index][order])])
        for column, (left, right) in enumerate(places):
            chosen = rng.integers(len(left), size=len(left))
            draw[column] = 1 - (below[left] + below[right])[chosen].mean() / 2 / below[-1]
    ends = np.quantile(draws, [0.025, 0.975], axis=0)
    rates = {
        name: Rate(auc(photographs, values), float(low), float(high), len(values))
        for (name, values), (low, high) in zip(others.items(), ends.T, strict=True)
    }
    low, high = np.quantile(draws.mean(axis=1), [0.025, 0.975])
    mean = float(np.mean([rate.value for rate in rates.values()]))
    return rates, Rate(mean, float(low), float(high), sum(map(len, others.values())))


def count_share(hits_N: NDArray[np.bool_], clusters: NDArray[np.str_] | None = None) -> Rate:
    """Return the share of hits with Clopper and Pearson's interval; faces of one of `clusters` are not independent."""
    codes = np.arange(len(hits_N)) if clusters is None else np.unique(clusters, return_inverse=True)[1]
    return Rate(float(hits_N.mean()), *clustered_interval(hits_N, codes), len(hits_N))


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
