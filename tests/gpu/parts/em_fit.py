"""The mixture's fit by EM at the paper's size, 25,000 faces in 768 dimensions, on the device and beside the CPU."""

import time

import numpy as np
from clock import synchronise
from mixture_fit import VARIANCE, draw_features
from part import Part

from ingest.device import Kind, load_array_module
from scorer.fitting.em import EmFit, fit_em
from scorer.fitting.fit import make_mixture
from scorer.fitting.seeding import seed_responsibilities
from scorer.fitting.shapes import MixtureShape
from scorer.mixture import log_likelihood, stack_mixture

COMPONENTS = 8
SAME_BOUND_NATS = 1e-3


def judge(fit: EmFit, features: np.ndarray) -> float:
    """Return the mean log-likelihood per face of the fitted parameters, in nats, by one computation for all."""
    stacked = stack_mixture(make_mixture(fit, MixtureShape("full", COMPONENTS)), np.float64)
    return float(np.mean([log_likelihood(rows, stacked).mean() for rows in np.array_split(features, 50)]))


def measure(part: Part) -> None:
    """State seconds, iterations and the bound; the CPU's where there is a GPU to compare with, on fewer faces."""
    xp = load_array_module(part.device)
    count, size = part.choose((25_000, 768), (2_000, 64))
    features = draw_features(count, size, COMPONENTS, seed=0)
    start = seed_responsibilities(features, COMPONENTS, VARIANCE, 0)
    where = f"N={count}, D={size}, K={COMPONENTS}"
    if part.device == "cuda":
        few = np.arange(count // 10)
        fit_em(features[few], start[few], "full", VARIANCE, max_iterations=2, xp=xp)  # loads libraries, not measured
    seconds, fit = time_fit(features, start, xp, part.device)
    part.record(f"EM on the device, {where}", seconds, "s")
    part.record("iterations", fit.iterations, "")
    part.record("seconds an iteration", seconds / fit.iterations, "s")
    bound = judge(fit, features)
    part.record("bound", bound, "nats a face")
    if part.device == "cuda":
        with part.attempt("the same fit on the CPU"):
            rows = np.random.default_rng(0).permutation(count)[: count // 5]
            pair = [time_fit(features[rows], start[rows], module, part.device) for module in (xp, np)]
            part.record(f"a fifth of the faces, CPU over device ({len(rows)} faces)", pair[1][0] / pair[0][0], "x")
            apart = abs(judge(pair[0][1], features[rows]) - judge(pair[1][1], features[rows]))
            part.record("bound on the device from the CPU's", apart, "nats a face", at_most=SAME_BOUND_NATS)


def time_fit(features: np.ndarray, start: np.ndarray, xp: object, device: Kind) -> tuple[float, EmFit]:
    """Return the wall seconds of a fit, and the fit."""
    synchronise(device)
    began = time.perf_counter()
    fit = fit_em(features, start, "full", VARIANCE, xp=xp)
    synchronise(device)
    return time.perf_counter() - began, fit
