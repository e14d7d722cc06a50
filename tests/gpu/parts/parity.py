"""The same photographs on both devices: nats between their scores, and decisions at 5 % that differ.

On the CPU: libjpeg-turbo, ONNX Runtime in FP32, NumPy. On the GPU all of `CudaEmbedder`: nvJPEG, the engine, CuPy.
Mixture and threshold are one for both, from the CPU's features of other photographs. The photographs show one portrait
in noise, and the network has ImageNet's weights: the numbers compare devices only.
"""

import os
from dataclasses import replace

import numpy as np
from bundles import make_gpu_bundle
from engines import embed_all, make_manifest, open_engines
from networks import LITE
from part import Part
from photographs import SIDES, draw_photograph, encode_face

from ingest.dali import FaceCropper
from scorer.engines.cuda.embedder import CudaEmbedder
from scorer.engines.cuda.onnx_runtime_engine import OnnxRuntimeEngine
from scorer.fitting.fit import Fitter, make_mixture
from scorer.mixture import log_likelihood, stack_mixture
from training.recipes import MixtureRule, MixtureShape, Precision

THREADS = len(os.sched_getaffinity(0))
SHAPE = MixtureShape("full", 1, 0.1)
RATE = 0.05


def measure(part: Part) -> None:
    """State the differences by precision; a half of the photographs fits, a quarter gives the threshold."""
    count, rng = part.choose(1600, 24), np.random.default_rng(6)
    bundle = make_gpu_bundle(part, LITE, "fp32")
    spec = bundle.model.preprocess
    faces = [encode_face(*draw_photograph(rng, *SIDES[number % len(SIDES)]), spec) for number in range(count)]
    crops = np.stack(FaceCropper(spec, THREADS, 64).crop(faces))  # type: ignore[arg-type]  # all are sound
    engine = OnnxRuntimeEngine(bundle.extractor, make_manifest("fp32"), "cpu", 16)
    features = embed_all(engine, crops, "cpu")  # type: ignore[arg-type]  # has what an `Engine` has
    fitted, held_out, judged = np.split(features, [count // 2, 3 * count // 4])
    mixture = stack_mixture(make_mixture(Fitter(MixtureRule()).fit(fitted, SHAPE), SHAPE))
    threshold, expected = np.quantile(log_likelihood(held_out, mixture), RATE), log_likelihood(judged, mixture)
    spread = float(np.subtract(*np.percentile(expected, [75, 25])))
    part.record("interquartile range of the likelihoods", spread, "nats")
    part.note(f"{len(judged)} photographs are judged")
    precisions: tuple[Precision, ...] = ("fp16", "fp32")
    served = {}  # the engine that serves comes last
    for each in open_engines(part, LITE, precisions):
        with part.attempt(each.name):
            embedder = CudaEmbedder(replace(bundle.model, mixture=mixture), each, THREADS, part.device)  # type: ignore[arg-type]  # as above
            found = embedder.embed(faces[-len(judged) :]).log_likelihood(mixture)
            apart, other = np.abs(found - expected), (found <= threshold) != (expected <= threshold)
            part.record(f"{each.name}: median difference", float(np.median(apart)), "nats")
            served[each.name.split()[-1]] = apart, other
    for precision, (apart, other) in served.items():
        part.record(f"{precision}: median difference", float(np.median(apart)), "nats")
        part.record(f"{precision}: 99th percentile", float(np.quantile(apart, 0.99)), "nats")
        part.record(f"{precision}: other decisions at 5 %", 100 * other.mean(), "% of faces")
