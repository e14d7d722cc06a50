"""The mixture against scikit-learn's `score_samples` in one run, at the paper's size."""

import time
from collections.abc import Callable

import numpy as np
from rich.table import Table
from sklearn.mixture import GaussianMixture as ReferenceMixture

from scorer.mixture import GaussianMixture, log_likelihood, stack_mixture

BATCH, COMPONENTS, SIZE, REPEATS = 256, 8, 768, 40


def mixture_rows() -> Table:
    """Return the table: rows per second, ratio and largest difference in nats for each precision."""
    rng = np.random.default_rng(0)
    means = rng.normal(scale=0.3, size=(COMPONENTS, SIZE))
    factors = np.triu(rng.normal(scale=0.02, size=(COMPONENTS, SIZE, SIZE)), 1) + np.eye(SIZE)
    weights = np.full(COMPONENTS, 1 / COMPONENTS)
    reference = ReferenceMixture(COMPONENTS)
    reference.weights_, reference.means_, reference.precisions_cholesky_ = weights, means, factors
    features = means[rng.integers(0, COMPONENTS, BATCH)] + rng.normal(size=(BATCH, SIZE))
    expected = reference.score_samples(features)
    table = Table(
        "mixture", "faces/s", "of scikit-learn", "largest difference", title=f"B={BATCH}, K={COMPONENTS}, D={SIZE}"
    )
    mixture = GaussianMixture(weights, means, factors)
    stacked = {dtype: stack_mixture(mixture, dtype) for dtype in (np.float32, np.float64)}
    jobs: dict[str, Callable[[], np.ndarray]] = {
        "scikit-learn FP64": lambda: reference.score_samples(features),
        "ours FP32": lambda: log_likelihood(features.astype(np.float32), stacked[np.float32]),
        "ours FP64": lambda: log_likelihood(features, stacked[np.float64]),
    }
    seconds = {name: _median_seconds(job) for name, job in jobs.items()}
    slow = seconds["scikit-learn FP64"]
    for name, job in jobs.items():
        difference = float(np.abs(job() - expected).max())
        table.add_row(name, f"{BATCH / seconds[name]:.0f}", f"{slow / seconds[name]:.2f}x", f"{difference:.1e} nats")
    return table


def _median_seconds(job: Callable[[], np.ndarray]) -> float:
    job()
    times = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        job()
        times.append(time.perf_counter() - started)
    return float(np.median(times))
