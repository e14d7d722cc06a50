"""EM against scikit-learn's at the paper's size, from the same responsibilities, in one run.

    OMP_NUM_THREADS=2 python tests/benchmarks/mixture_fit.py

On a machine that does other work, the seconds of one thread on the CPU are the ones to compare (OMP_NUM_THREADS=1).

The features imitate real ones: all clusters share most of a steeply falling spectrum, overlap, differ in size, and
have heavy tails. Scikit-learn computes in the precision of what it is given, so both of its rows are honest rivals.
"""

import argparse
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from rich.console import Console
from rich.table import Table
from sklearn.mixture import GaussianMixture as Reference

from scorer.fitting.em import fit_em
from scorer.fitting.seeding import seed_responsibilities
from scorer.fitting.shapes import Covariance
from scorer.mixture import GaussianMixture, log_likelihood, stack_mixture

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
    """Return scikit-learn's mixture, to start from these responsibilities."""

    class Started(Reference):
        def _initialize_parameters(self, X: np.ndarray, *_: object, **__: object) -> None:
            self._initialize(X, responsibilities)

    return Started(responsibilities.shape[1], covariance_type=covariance, reg_covar=VARIANCE, max_iter=200)


@dataclass(frozen=True, slots=True)
class Outcome:
    """One fit: wall and CPU seconds, iterations, bound, and the load of the machine."""

    name: str
    seconds: float
    cpu_s: float
    iterations: int
    bound_nats: float
    load: float


def measure(name: str, fit: Callable[[], tuple[int, GaussianMixture]], features: np.ndarray) -> Outcome:
    """Run `fit`; evaluate its parameters with one double-precision likelihood for all programs."""
    started, started_cpu = time.perf_counter(), time.process_time()
    iterations, mixture = fit()
    seconds, cpu_s = time.perf_counter() - started, time.process_time() - started_cpu
    stacked = stack_mixture(mixture, np.float64)
    bound = np.mean([log_likelihood(part, stacked).mean() for part in np.array_split(features, 100)])
    outcome = Outcome(name, seconds, cpu_s, iterations, float(bound), os.getloadavg()[0])
    Console(stderr=True, width=110).print(outcome)
    return outcome


def fit_ours(features: np.ndarray, start: np.ndarray, covariance: Covariance) -> tuple[int, GaussianMixture]:
    """Return the iterations and the mixture of our fit."""
    fit = fit_em(features, start, covariance, VARIANCE)
    return fit.iterations, describe_mixture(fit.weights, fit.means, fit.covariances, covariance)


def fit_reference(features: np.ndarray, start: np.ndarray, covariance: Covariance) -> tuple[int, GaussianMixture]:
    """Return the iterations and the mixture of scikit-learn's fit."""
    found = start_reference(start, covariance).fit(features)
    return found.n_iter_, describe_mixture(found.weights_, found.means_, found.covariances_, covariance)


def describe_mixture(
    weights: np.ndarray, means: np.ndarray, covariances: np.ndarray, covariance: Covariance
) -> GaussianMixture:
    """Return a mixture with these parameters."""
    exact = covariances.astype(np.float64)
    if covariance == "diag":
        return GaussianMixture(weights, means, 1 / np.sqrt(exact))
    factors = np.swapaxes(np.linalg.inv(np.linalg.cholesky(exact)), -1, -2)
    return GaussianMixture(weights, means, np.broadcast_to(factors, (len(weights), *factors.shape[-2:])))


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
    jobs = {
        "ours": partial(fit_ours, features),
        "scikit-learn FP32": partial(fit_reference, features),
        "scikit-learn FP64": partial(fit_reference, exact),
    }
    outcomes = [measure(name, partial(job, start, options.covariance), exact) for name, job in jobs.items()]
    ours = outcomes[0]
    table = Table(
        *("fit", "seconds", "of ours", "CPU s", "of ours", "iterations", "bound, nats per face", "load"),
        title=f"{options.covariance}, N={options.count}, D={options.size}, K={options.components}",
    )
    for row in outcomes:
        table.add_row(
            row.name,
            f"{row.seconds:.1f}",
            f"{row.seconds / ours.seconds:.1f}x",
            f"{row.cpu_s:.1f}",
            f"{row.cpu_s / ours.cpu_s:.1f}x",
            str(row.iterations),
            f"{row.bound_nats:.6f}",
            f"{row.load:.1f}",
        )
    Console(width=110).print(table, f"seeding by k-means++ took {seeding_s:.1f} s, which no row includes")


if __name__ == "__main__":
    main()
