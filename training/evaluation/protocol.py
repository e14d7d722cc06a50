"""The paper's protocol, as the authors' released code runs it.

For each generator, N = min(5000, its faces) generated faces are compared with N photographs. A face is classified as a
photograph if its log-likelihood is at least the 5th percentile of the photographs that the mixture was fitted on. So
the threshold is not held out; `training.evaluation.operating_points` uses held-out photographs. Average precision
counts photographs as positives. (Zou et al. 2025, section III-A; `yfcc_face_OCT_variants.py` of their release.)
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from training.evaluation.measures import LogLikelihoods, auc, average_precision

MAX_FACES = 5000
FALSE_ALARM_RATE = 0.05


@dataclass(frozen=True, slots=True)
class Outcome:
    """Accuracy, average precision and AUC, each 0 to 1, of `count` generated faces and `count` photographs."""

    accuracy: float
    average_precision: float
    auc: float
    count: int


@dataclass(frozen=True, slots=True)
class ProtocolComparison:
    """The outcome of each generator, and their unweighted average.

    Attributes:
        threshold_nats: faces of at least this log-likelihood are classified as photographs.
        generators: outcome by generator.
        average: over generators with equal weights; its count is the sum.
    """

    threshold_nats: float
    generators: dict[str, Outcome]
    average: Outcome


def pick_threshold(photographs: LogLikelihoods, rate: float = FALSE_ALARM_RATE) -> float:
    """Return the log-likelihood in nats that about a share `rate` of the photographs is below."""
    return float(np.sort(photographs)[int(rate * len(photographs))])


def judge_generator(photographs: LogLikelihoods, generated: LogLikelihoods, threshold_nats: float) -> Outcome:
    """Return the metrics of two samples of the same size."""
    right = int((photographs >= threshold_nats).sum() + (generated < threshold_nats).sum())
    return Outcome(
        accuracy=right / (len(photographs) + len(generated)),
        average_precision=average_precision(photographs, generated),
        auc=auc(photographs, generated),
        count=len(generated),
    )


def compare_generators(
    threshold_photographs: LogLikelihoods,
    photographs: LogLikelihoods,
    generated: Mapping[str, LogLikelihoods],
    seed: int = 2024,
) -> ProtocolComparison:
    """Return the metrics of each generator and their average.

    If there are fewer photographs than faces of a generator, as many faces are drawn as there are photographs.

    Args:
        threshold_photographs: log-likelihoods whose 5th percentile is the threshold.
        photographs: log-likelihoods of the test photographs.
        generated: log-likelihoods by generator.
        seed: of the draws.
    """
    threshold = pick_threshold(threshold_photographs)
    rng = np.random.default_rng(seed)
    outcomes = {}
    for name, values in generated.items():
        count = min(MAX_FACES, len(values), len(photographs))
        real, drawn = (rng.choice(sample, count, replace=False) for sample in (photographs, values))
        outcomes[name] = judge_generator(real, drawn, threshold)
    rows = list(outcomes.values())
    average = Outcome(
        accuracy=float(np.mean([row.accuracy for row in rows])),
        average_precision=float(np.mean([row.average_precision for row in rows])),
        auc=float(np.mean([row.auc for row in rows])),
        count=sum(row.count for row in rows),
    )
    return ProtocolComparison(threshold, outcomes, average)
