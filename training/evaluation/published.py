"""Figures that others published, each with its source; an unknown figure is None and printed as a dash."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Published:
    """Accuracy, average precision and AUC in percent, averaged over the generators of the source."""

    method: str
    accuracy: float | None
    average_precision: float | None
    auc: float | None
    source: str


PAPER = Published(
    "the paper's method, K=8",
    86.63,
    93.01,
    93.43,
    "Zou, Yu, Zhan, Ma: Self-Supervised Learning for Detecting AI-Generated Faces as Anomalies, arXiv 2501.02207 "
    "(2025), average of nine generators; its own row of average precisions averages 93.05",
)
FOLLOW_UP = Published(
    "its follow-up BLADES, one-class",
    88.01,
    None,
    95.05,
    "Zou, Zhong, Yu, Zhan, Ma: Bi-Level Optimization for Self-Supervised AI-Generated Face Detection, "
    "arXiv 2507.22824 (2025)",
)
