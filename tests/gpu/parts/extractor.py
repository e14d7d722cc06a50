"""The extractor's images a second by batch and engine, beside the dense half-precision ceiling of the same run."""

from clock import HALF, measure_gemm, time_device
from engines import Array, Engine, open_engines, open_reference
from networks import LITE, RESNET, count_flop, draw_crops, make_extractor
from part import Part

from ingest.device import load_array_module
from training.recipes import Precision

BATCHES = (1, 4, 16, 64, 128, 256, 512)
PRECISIONS: tuple[Precision, ...] = ("fp16", "int8", "fp8")


def measure_engine(part: Part, engine: Engine, crops: Array, flop: float, ceiling: float) -> None:
    """State one engine's rates."""
    best = 0.0
    for batch in BATCHES:
        if batch > engine.max_batch:
            break
        # Two sets of crops in turn, so that none is still in the cache.
        sets = [crops[:batch], crops[-batch:].copy()]
        turn = [0]

        def run(sets: list[Array] = sets, turn: list[int] = turn) -> None:
            turn[0] ^= 1
            engine.run(sets[turn[0]])

        seconds = time_device(run, part.device, rounds=7, calls=4 if batch > 8 else 40)
        part.record(f"{engine.name}, batch {batch}", batch / seconds, "images/s")
        best = max(best, batch / seconds)
    part.record(f"{engine.name}: best, of the dense half-precision ceiling", best * flop / ceiling, "x")


def measure(part: Part) -> None:
    """State the ceiling, the network as PyTorch runs it, and every engine."""
    network = part.choose(RESNET, LITE)
    flop, ceiling = count_flop(make_extractor(network)), measure_gemm(part.device, HALF[part.device])
    part.record("a large dense half-precision product", ceiling / 1e12, "TFLOP/s")
    part.record(f"the ceiling for {network}", ceiling / flop, "images/s")
    crops = load_array_module(part.device).asarray(draw_crops(part.choose(768, 24), seed=2))
    for engine in open_engines(part, network, part.choose(PRECISIONS, ("fp32",))):
        with part.attempt(engine.name):
            measure_engine(part, engine, crops, flop, ceiling)
    with part.attempt("PyTorch FP32"):
        measure_engine(part, open_reference(network, part.device, part.choose(256, 4)), crops, flop, ceiling)
