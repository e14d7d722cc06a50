"""The same photographs on both devices, by engine and precision: nats, order and decisions, against the CPU.

On the CPU: libjpeg-turbo and ONNX Runtime in FP32; on the GPU: nvJPEG and the engine. Nats and decisions are under one
mixture and threshold, from the CPU's features of other photographs. Order and flips are those of two bundles: mixture
and thresholds are each engine's own, as an export fits them. The photographs show one portrait in noise: the numbers
compare devices and say nothing about faces.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from engines import embed_all, export_graph, make_manifest, open_engines
from networks import LITE, RESNET, draw_crops
from part import Part
from photographs import draw_photograph, encode_face
from scipy.stats import spearmanr

from ingest.device import load_array_module
from ingest.probe import EncodedFace
from ingest.spec import PreprocessSpec
from scorer.engines.cuda.onnx_runtime_engine import OnnxRuntimeEngine
from scorer.fitting.fit import Fitter, make_mixture
from scorer.mixture import StackedMixture, log_likelihood, stack_mixture
from training.recipes import MixtureRule, MixtureShape, Precision

THREADS = len(os.sched_getaffinity(0))
SIDE = (1024, 768)
RATES = (0.05, 0.01)
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8", "fp8")
SHAPE = MixtureShape("full", 1, 0.1)


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """A half of the crops fits, a quarter calibrates, and the rest [N] is judged: likelihoods and flags by rate."""

    mixture: StackedMixture
    likelihoods: np.ndarray
    thresholds: dict[float, float]

    def flags(self, rate: float) -> np.ndarray:
        """Return which are flagged [N] at a rate."""
        return self.likelihoods <= self.thresholds[rate]


def judge(features: np.ndarray) -> Judged:
    """Fit, calibrate and judge; the mixture has the starter bundle's shape."""
    fitted, calibration, judged = np.split(features, [len(features) // 2, 3 * len(features) // 4])
    mixture = stack_mixture(make_mixture(Fitter(MixtureRule()).fit(fitted, SHAPE), SHAPE))
    held_out, likelihoods = log_likelihood(calibration, mixture), log_likelihood(judged, mixture)
    return Judged(mixture, likelihoods, {rate: float(np.quantile(held_out, rate)) for rate in RATES})


def compare(part: Part, name: str, features: np.ndarray, reference: Judged) -> None:
    """State how far an engine's scores are from the reference's."""
    expected = reference.likelihoods
    found = log_likelihood(features[-len(expected) :], reference.mixture)
    apart, other = np.abs(found - expected), (found <= reference.thresholds[0.05]) != reference.flags(0.05)
    part.record(f"{name}: median difference", float(np.median(apart)), "nats")
    part.record(f"{name}: 99th percentile", float(np.quantile(apart, 0.99)), "nats")
    part.record(f"{name}: other decisions at 5 %", 100 * float(other.mean()), "% of faces")
    own = judge(features)
    part.record(f"{name}: rank correlation", spearmanr(own.likelihoods, expected).statistic, "")
    for rate in RATES:
        flips = float((own.flags(rate) != reference.flags(rate)).mean())
        part.record(f"{name}: flips at {rate:.0%}", 100 * flips, "% of faces")


def cut_photographs(part: Part, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the crops of photographs, of the CPU and of the device."""
    from ingest.dali import FaceCropper  # noqa: PLC0415 - without DALI, the same crops go to both
    from ingest.dali_cuda import DeviceCropper  # noqa: PLC0415 - as above

    spec, xp = PreprocessSpec(), load_array_module(part.device)

    def draw(seed: int) -> EncodedFace:
        return encode_face(*draw_photograph(np.random.default_rng(seed), *SIDE), spec)

    with ThreadPoolExecutor(THREADS) as pool:
        faces = list(pool.map(draw, range(count)))
    cut, _ = DeviceCropper(spec, THREADS, 64, part.device).crop(faces)
    crops = np.array(cut) if xp is np else xp.asnumpy(cut)
    return np.stack(FaceCropper(spec, THREADS, 64).crop(faces)), crops  # type: ignore[arg-type]  # all are sound


def measure(part: Part) -> None:
    """State every engine's figures, network by network."""
    count, cut = part.choose(1600, 48), None
    with part.attempt("photographs decoded on both devices"):
        cut = cut_photographs(part, count)
    expected, crops = cut or (draw_crops(count, seed=5),) * 2
    for network in part.choose((LITE, RESNET), (LITE,)):
        with part.attempt(network):
            bare = OnnxRuntimeEngine(export_graph(part, network, "fp32"), make_manifest("fp32"), "cpu", 16)
            reference = judge(embed_all(bare, expected, "cpu"))  # type: ignore[arg-type]  # has what an `Engine` has
            spread = float(np.subtract(*np.percentile(reference.likelihoods, [75, 25])))
            part.record(f"{network}: interquartile range of the likelihoods", spread, "nats")
            for engine in open_engines(part, network, PRECISIONS):
                with part.attempt(f"{network}, {engine.name}"):
                    features = embed_all(engine, crops, part.device)
                    compare(part, f"{network}, {engine.name}", features, reference)
                    if network == LITE and engine.name.endswith("FP16"):  # the last engine's figures are the report's
                        compare(part, "FP16", features, reference)
