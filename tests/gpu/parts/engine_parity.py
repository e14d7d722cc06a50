"""What each engine and precision does to scores: nats, order and decisions, against the network in true FP32.

Nats are under one mixture, fitted on the FP32 features: how far an engine is from another one of the same bundle. Order
and decisions are a bundle's: mixture and thresholds are each engine's own, as an export fits them. The crops are pieces
of one portrait, so that these numbers compare engines and say nothing about photographs.
"""

from dataclasses import dataclass

import numpy as np
from engines import embed_all, open_engines, open_reference
from networks import LITE, RESNET, draw_crops
from part import Part
from scipy.stats import spearmanr

from scorer.fitting.fit import Fitter, make_mixture
from scorer.mixture import StackedMixture, log_likelihood, stack_mixture
from training.recipes import MixtureRule, MixtureShape, Precision

RATES = (0.05, 0.01)
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8", "fp8")
SHAPE = MixtureShape("full", 1, 0.1)


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """A half of the crops fits, a quarter calibrates, and the rest [N] is judged: likelihoods and flags by rate."""

    mixture: StackedMixture
    likelihoods: np.ndarray
    flags: dict[float, np.ndarray]


def judge(features: np.ndarray) -> Judged:
    """Fit, calibrate and judge; the mixture has the starter bundle's shape."""
    fitted, calibration, judged = np.split(features, [len(features) // 2, 3 * len(features) // 4])
    mixture = stack_mixture(make_mixture(Fitter(MixtureRule()).fit(fitted, SHAPE), SHAPE))
    held_out, likelihoods = log_likelihood(calibration, mixture), log_likelihood(judged, mixture)
    return Judged(mixture, likelihoods, {rate: likelihoods <= np.quantile(held_out, rate) for rate in RATES})


def compare(part: Part, name: str, features: np.ndarray, reference: Judged) -> None:
    """State how far an engine's scores are from the reference's."""
    expected = reference.likelihoods
    apart = np.abs(log_likelihood(features[-len(expected) :], reference.mixture) - expected)
    part.record(f"{name}: median difference", float(np.median(apart)), "nats")
    part.record(f"{name}: 95th percentile", float(np.quantile(apart, 0.95)), "nats")
    own = judge(features)
    part.record(f"{name}: rank correlation", spearmanr(own.likelihoods, expected).statistic, "")
    for rate in RATES:
        flips = float((own.flags[rate] != reference.flags[rate]).mean())
        part.record(f"{name}: flips at {rate:.0%}", 100 * flips, "% of faces")


def measure(part: Part) -> None:
    """State every engine's figures, network by network."""
    crops = draw_crops(part.choose(4096, 48), seed=5)
    for network in part.choose((LITE, RESNET), (LITE,)):
        with part.attempt(network):
            bare = open_reference(network, part.device, part.choose(256, 16))
            reference = judge(embed_all(bare, crops, part.device))
            spread = float(np.subtract(*np.percentile(reference.likelihoods, [75, 25])))
            part.record(f"{network}: interquartile range of the likelihoods", spread, "nats")
            for engine in open_engines(part, network, PRECISIONS):
                with part.attempt(f"{network}, {engine.name}"):
                    compare(part, f"{network}, {engine.name}", embed_all(engine, crops, part.device), reference)
