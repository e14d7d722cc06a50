"""The comparable mode: the paper's protocol as the authors' released code runs it.

For each generator N = min(5000, its faces) generated faces meet N photographs. A face is taken for a photograph if its
log-likelihood is at least the 5th percentile of the photographs that the mixture was fitted on, so this threshold has
seen them; `training.evaluation.operating_points` measures held-out photographs. Average precision counts photographs as
positives. (Zou et al. 2025, section IV; `yfcc_face_OCT_variants.py` of their release.)
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from training.evaluation.measures import LogLikelihoods, auc, average_precision

MAX_FACES = 5000
FALSE_ALARM_RATE = 0.05


@dataclass(frozen=True, slots=True)
class Outcome:
    """Accuracy, average precision and AUC, each 0 to 1, over `count` generated faces and as many photographs."""

    accuracy: float
    average_precision: float
    auc: float
    count: int


@dataclass(frozen=True, slots=True)
class ProtocolComparison:
    """The outcome of each generator, and their plain average.

    Attributes:
        threshold_nats: photographs are what is at least this likely.
        generators: outcome by generator.
        average: each generator weighs the same; its count is the sum.
    """

    threshold_nats: float
    generators: dict[str, Outcome]
    average: Outcome


def pick_threshold(photographs: LogLikelihoods, rate: float = FALSE_ALARM_RATE) -> float:
    """Return the log-likelihood, in nats, that a share of about `rate` of the photographs lies below."""
    return float(np.sort(photographs)[int(rate * len(photographs))])


def judge_generator(photographs: LogLikelihoods, generated: LogLikelihoods, threshold_nats: float) -> Outcome:
    """Return the figures of two samples of the same size."""
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
    """Return the paper's figures of each generator and on average.

    Where there are fewer photographs than a generator has faces, both are drawn down to that number.

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
