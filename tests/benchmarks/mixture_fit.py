"""EM against scikit-learn's at the paper's size, from the same responsibilities, in one run.

    OMP_NUM_THREADS=2 python tests/benchmarks/mixture_fit.py

The features imitate real ones: all clusters share most of a steeply falling spectrum, overlap, differ in size, and
have heavy tails. Scikit-learn computes in the precision of what it is given, so both of its rows are honest rivals.
"""

import argparse
import os
import time

import numpy as np
from rich.console import Console
from rich.table import Table
from sklearn.mixture import GaussianMixture as Reference

from training.em import fit_em
from training.recipes import Covariance
from training.seeding import seed_responsibilities

VARIANCE = 1e-6  # scikit-learn's and the paper's
TAIL = 8.0  # degrees of freedom of Student's t


def draw_features(count: int, size: int, clusters: int, seed: int) -> np.ndarray:
    """Return [count, size] FP32 features of `clusters` kinds of photographs."""
    rng = np.random.default_rng(seed)
    spectrum = (1 + np.arange(size)) ** -0.7
    shared = np.linalg.qr(rng.normal(size=(size, size)))[0]
    of = rng.choice(clusters, count, p=rng.dirichlet(np.full(clusters, 5.0)))
    features = np.empty((count, size), np.float32)
    for cluster in range(clusters):
        rows = np.flatnonzero(of == cluster)
        basis = np.linalg.qr(shared + rng.normal(0, 0.02, (size, size)))[0]
        scales = spectrum * np.exp(rng.normal(0, 0.3, size))
        tail = np.sqrt(TAIL / rng.chisquare(TAIL, (len(rows), 1)))
        centre = rng.normal(size=size) * spectrum
        features[rows] = (rng.normal(size=(len(rows), size)) * tail * scales + centre) @ basis.T * 0.3 + 0.4
    return features


def start_reference(responsibilities: np.ndarray, covariance: Covariance) -> Reference:
    """Return scikit-learn's mixture, which will start from these responsibilities."""

    class Started(Reference):
        def _initialize_parameters(self, X: np.ndarray, *_: object, **__: object) -> None:
            self._initialize(X, responsibilities)

    return Started(responsibilities.shape[1], covariance_type=covariance, reg_covar=VARIANCE, max_iter=200)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=25_000)
    parser.add_argument("--size", type=int, default=768)
    parser.add_argument("--components", type=int, default=8)
    parser.add_argument("--covariance", choices=["full", "tied", "diag"], default="full")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    features = draw_features(options.count, options.size, options.components, options.seed)
    exact = features.astype(np.float64)
    started = time.perf_counter()
    start = seed_responsibilities(features, options.components, VARIANCE, options.seed)
    seeding_s = time.perf_counter() - started
    title = f"{options.covariance}, N={options.count}, D={options.size}, K={options.components}"
    table = Table("fit", "seconds", "speed-up", "iterations", "bound, nats per face", "load average", title=title)

    def add_row(name: str, seconds: float, iterations: int, bound: float) -> None:
        Console(stderr=True).print(f"{name}: {seconds:.1f} s")
        table.add_row(
            name,
            f"{seconds:.1f}",
            f"{slow / seconds:.2f}x",
            str(iterations),
            f"{bound:.6f}",
            " ".join(f"{load:.1f}" for load in os.getloadavg()[:2]),
        )

    slow, scorer = 0.0, Reference(options.components, covariance_type=options.covariance)
    for name, given in (("scikit-learn FP64", exact), ("scikit-learn FP32", features)):
        estimator = start_reference(start, options.covariance)
        started = time.perf_counter()
        estimator.fit(given)
        seconds = time.perf_counter() - started
        slow = slow or seconds
        scorer = estimator if given is exact else scorer
        add_row(name, seconds, estimator.n_iter_, bound_of(estimator, exact))
    started = time.perf_counter()
    fit = fit_em(features, start, options.covariance, VARIANCE)
    seconds = time.perf_counter() - started
    # Judged by scikit-learn's own likelihood of the parameters that each ended with.
    scorer.weights_, scorer.means_, scorer.covariances_ = fit.weights, fit.means, fit.covariances
    scorer.precisions_cholesky_ = precisions_cholesky(fit.covariances, options.covariance)
    add_row("ours", seconds, fit.iterations, scorer.score(exact))
    Console(width=110).print(table, f"seeding by k-means++ took {seeding_s:.1f} s, which no row counts")


def bound_of(estimator: Reference, features: np.ndarray) -> float:
    """Return scikit-learn's mean log-likelihood of its final parameters, in double precision."""
    for name in ("weights_", "means_", "covariances_", "precisions_cholesky_"):
        setattr(estimator, name, getattr(estimator, name).astype(np.float64))
    return float(estimator.score(features))


def precisions_cholesky(covariances: np.ndarray, covariance: Covariance) -> np.ndarray:
    """Return what scikit-learn scores with."""
    if covariance == "diag":
        return 1 / np.sqrt(covariances)
    return np.swapaxes(np.linalg.inv(np.linalg.cholesky(covariances)), -1, -2)


if __name__ == "__main__":
    main()
