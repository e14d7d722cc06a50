"""The mixture's log-likelihood on the device: against FP64 in nats, against the FP32 roofline, and as a share of all.

The work of B faces is one FP32 product [B, D] x [D, K D], 2 B K D^2 operations; the roofline is the longer of that at
the rate of a large FP32 product and of its bytes at the rate of a large copy, both measured in this run. An
implementation that skips the triangular factors' zeros does less, and may pass 100 %.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from clock import HALF, measure_copy, measure_gemm, time_device
from part import Part

from ingest.device import load_array_module
from scorer.engines.cuda.mixture import DeviceMixture
from scorer.mixture import GaussianMixture, log_likelihood, stack_mixture

ROOT = Path(__file__).resolve().parent.parent.parent.parent
COMPONENTS, SIZE, FACES = 8, 768, (256, 1024, 4096)
NATS, ROOFLINE_SHARE, SHARE_OF_ALL = 1e-3, 0.7, 0.03
CALLS = 20
RESNET_FLOP = 8.2e9  # of one 224 x 224 image, multiplications and additions
Likelihood = Callable[[Any], Any]


def draw_mixture() -> GaussianMixture:
    """Return a mixture of the paper's size whose factors are far from the identity."""
    rng = np.random.default_rng(0)
    means = rng.normal(scale=0.3, size=(COMPONENTS, SIZE))
    factors = np.triu(rng.normal(scale=0.02, size=(COMPONENTS, SIZE, SIZE)), 1) + np.eye(SIZE)
    return GaussianMixture(np.full(COMPONENTS, 1 / COMPONENTS), means, factors)


def draw_features(mixture: GaussianMixture, count: int) -> np.ndarray:
    """Return [count, D] FP32 features around the mixture's means."""
    rng = np.random.default_rng(1)
    components = rng.integers(0, len(mixture.weights), count)
    spread = 1 / np.abs(mixture.diagonals().astype(np.float64))[components]
    return (mixture.means[components] + rng.normal(size=spread.shape) * spread).astype(np.float32)


def open_likelihoods(mixture: GaussianMixture, xp: Any) -> dict[str, Likelihood]:  # noqa: ANN401 - numpy or cupy
    """Return the ways to compute it, by name; the one that serves comes last."""
    ways: dict[str, Likelihood] = {}
    for name, dtype, panels in (("one product FP64", np.float64, 1), ("panels FP32", np.float32, 4)):
        stacked = stack_mixture(mixture, dtype, xp, panels)
        ways[name] = lambda features, stacked=stacked: log_likelihood(features, stacked)  # type: ignore[misc]
    ways["fused FP32"] = DeviceMixture(stack_mixture(mixture), xp).log_likelihood
    return ways


def measure_parity(part: Part, name: str, mixture: GaussianMixture, features: np.ndarray, xp: Any) -> None:  # noqa: ANN401 - as above
    """State how far each way is from FP64 on the CPU."""
    exact = log_likelihood(features.astype(np.float64), stack_mixture(mixture))
    for way, compute in open_likelihoods(mixture, xp).items():
        with part.attempt(f"{way}, {name}"):
            found = compute(xp.asarray(features))
            found = found if xp is np else xp.asnumpy(found)
            part.record(f"{way} from FP64, {name}", np.abs(found - exact).max(), "nats", at_most=NATS)


def measure_speed(part: Part, xp: Any) -> None:  # noqa: ANN401 - as above
    """State times, shares of the roofline and shares of what a network takes beside it."""
    mixture = draw_mixture()
    flops, copied = measure_gemm(part.device, torch.float32), measure_copy(part.device)
    part.record("a large FP32 product (no TF32)", flops / 1e12, "TFLOP/s")
    part.record("a large copy, read and written", copied / 1e9, "GB/s")
    half = measure_gemm(part.device, HALF[part.device])
    part.record("a large half-precision product", half / 1e12, "TFLOP/s")
    ways = open_likelihoods(mixture, xp)
    for faces in FACES if part.device == "cuda" else (256,):
        features = xp.asarray(draw_features(mixture, faces))
        floor = 2 * faces * COMPONENTS * SIZE**2 / flops
        floor = max(floor, 4 * (COMPONENTS * SIZE**2 + faces * SIZE) / copied)
        for way, compute in ways.items():
            with part.attempt(f"{way}, B={faces}"):
                seconds = time_device(lambda compute=compute, x=features: compute(x), part.device, calls=CALLS)
                serves = way == list(ways)[-1]
                part.record(f"{way}, B={faces}", seconds * 1e6, "us")
                bound = ROOFLINE_SHARE if serves else None
                part.record(f"{way}, B={faces}: of the FP32 roofline", floor / seconds, "x", at_least=bound)
                if serves:
                    # No network beats the dense ceiling, so that the share of any whole is smaller still.
                    share = seconds / (seconds + faces * RESNET_FLOP / half)
                    name = f"{way}, B={faces}: share of itself and ResNet-50 at the ceiling"
                    part.record(name, share, "x", at_most=SHARE_OF_ALL)


def measure(part: Part) -> None:
    """State parity first, speed then."""
    xp = load_array_module(part.device)
    mixture = draw_mixture()
    measure_parity(part, "paper's size", mixture, draw_features(mixture, part.choose(4096, 64)), xp)
    with np.load(ROOT / "model_repository" / "mixture.npz", allow_pickle=False) as arrays:
        starter = GaussianMixture(**{name: arrays[name] for name in ("weights", "means", "precisions_cholesky")})
    measure_parity(part, "starter bundle", starter, draw_features(starter, part.choose(4096, 64)), xp)
    measure_speed(part, xp)
