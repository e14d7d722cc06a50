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

# The paper's Tables I (accuracy, average precision) and II (AUC) in percent, with the averages as printed. "Ours" is
# the paper's method.
GENERATORS = (
    "StyleGAN2", "VQGAN", "LDM", "DDIM", "SDv2.1", "FreeDoM", "HPS", "Midjourney", "SDXL", "Average",
)  # fmt: skip
_ACCURACY = """
GramNet 51.16 99.92 53.25 50.09 50.23 51.59 50.26 52.91 53.63 57.00
FRDM 70.13 100.00 99.62 98.26 62.48 55.68 75.07 92.51 89.77 82.61
RECCE 66.64 100.00 70.91 73.10 71.62 77.52 64.14 62.19 65.29 72.38
LGrad 52.94 99.99 99.80 64.91 57.59 66.58 60.14 76.59 74.03 72.43
DIRE 72.48 69.81 98.92 77.80 58.84 89.05 62.50 90.75 87.79 78.66
UnivFD 65.45 83.40 70.06 72.25 72.76 78.55 56.21 54.96 58.01 67.96
Ours 76.88 74.59 93.83 93.63 78.62 95.31 83.79 91.29 91.71 86.63
"""
_PRECISION = """
GramNet 78.74 100.00 80.15 58.59 52.90 76.77 48.28 63.52 65.45 69.38
FRDM 99.93 100.00 100.00 100.00 83.41 98.28 96.69 99.56 99.19 97.45
RECCE 76.10 100.00 81.69 81.15 80.71 82.80 96.40 96.28 95.67 87.87
LGrad 91.54 100.00 100.00 98.28 93.78 49.16 96.04 98.69 98.30 91.75
DIRE 90.34 89.82 100.00 91.80 74.16 94.26 78.30 97.43 96.46 90.29
UnivFD 71.47 97.58 76.61 81.02 80.66 86.88 60.10 56.35 60.76 74.60
Ours 83.94 82.85 98.67 98.67 87.60 99.86 91.15 97.32 97.38 93.01
"""
_AUC = """
CLIP 33.99 60.20 55.49 82.85 90.15 85.39 91.22 92.21 93.66 76.13
FaRL 34.35 55.91 47.26 85.10 95.24 79.91 93.97 89.72 94.61 75.12
EXIF-LAN 69.71 72.41 85.81 84.98 74.21 97.92 87.33 91.65 93.04 84.12
EXIF-L2R 67.91 69.99 83.20 87.94 86.74 93.84 90.30 94.06 95.39 85.49
Ours 85.69 84.31 98.66 97.96 88.29 99.79 91.92 97.07 97.23 93.43
"""


def _read(text: str) -> dict[str, tuple[str, ...]]:
    rows = (line.split() for line in text.strip().splitlines())
    return {name: tuple(cells) for name, *cells in rows}


ACCURACY, PRECISION, AUC = _read(_ACCURACY), _read(_PRECISION), _read(_AUC)
