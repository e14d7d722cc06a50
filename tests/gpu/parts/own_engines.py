"""Engines of ours beside ONNX Runtime and PyTorch as they are: images a second with the same crops in the same run.

The rule: where one of the others reaches an engine of ours within 5 %, ours goes. A rehearsal also builds a small
plan by Torch-TensorRT.
"""

from functools import partial

import torch
from clock import HALF, time_device
from engines import Array, Run, export_graph, open_engines, open_torch_tensorrt
from networks import LITE, RESNET, draw_crops, make_extractor
from part import Part

from ingest.device import load_array_module
from tests.small_extractor import make_small_extractor
from training.recipes import Precision

NEAR = 0.95


def open_plain(part: Part, network: str, precision: Precision) -> Run:
    """Return ONNX Runtime with its default settings: arrays of the host, in and out."""
    from scorer.engines.onnx_runtime import onnxruntime  # noqa: PLC0415 - costs only its own figure

    provider = "CUDAExecutionProvider" if part.device == "cuda" else "CPUExecutionProvider"
    session = onnxruntime.InferenceSession(str(export_graph(part, network, precision)), providers=[provider])
    if session.get_providers()[0] != provider:  # it falls back to the CPU without an error
        message = f"ONNX Runtime has no {provider} here"
        raise RuntimeError(message)
    name = session.get_inputs()[0].name
    return lambda crops: session.run(None, {name: crops if part.device == "cpu" else crops.get()})


def open_torch(part: Part, network: str, crops: Array, *, compiled: bool) -> Run:
    """Return the half-precision network: compiled, with CUDA graphs, or recorded in one; for as many crops as these."""
    extractor = make_extractor(network).to(part.device, HALF[part.device])
    if compiled:
        extractor.compile(**({"mode": "reduce-overhead"} if part.device == "cuda" else {"backend": "aot_eager"}))
    own = torch.from_dlpack(crops).clone()
    work = torch.inference_mode()(partial(extractor, own))
    for _ in range(3):
        work()
    if part.device == "cuda" and not compiled:
        recording = torch.cuda.CUDAGraph()
        with torch.cuda.graph(recording):
            work()
        work = recording.replay
    return lambda crops: (own.copy_(torch.from_dlpack(crops)), work())


def measure_rate(part: Part, name: str, run: Run, crops: Array) -> float:
    """State and return the images a second of one engine."""
    rate = len(crops) / time_device(partial(run, crops), part.device, rounds=7, calls=4)
    part.record(f"{name}, batch {len(crops)}", rate, "images/s")
    return rate


def measure(part: Part) -> None:
    """State all rates, then of each engine of ours the share that the fastest of the others reaches."""
    network, precision = part.choose(RESNET, LITE), part.choose("fp16", "fp32")
    crops = load_array_module(part.device).asarray(draw_crops(part.choose(128, 4), seed=2))
    ours: dict[str, float] = {}
    others: dict[str, float] = {}
    for engine in open_engines(part, network, (precision,)):
        with part.attempt(engine.name):
            ours[engine.name] = measure_rate(part, engine.name, engine.run, crops)
    for name, opener in {
        "ONNX Runtime as it is": partial(open_plain, part, network, precision),
        "torch.compile": partial(open_torch, part, network, crops, compiled=True),
        "PyTorch in a CUDA graph": partial(open_torch, part, network, crops, compiled=False),
    }.items():
        with part.attempt(name):
            others[name] = measure_rate(part, name, opener(), crops)
    for name, rate in ours.items():
        # ONNX Runtime with our bindings may also take the place of a plan.
        rivals = others | {other: ours[other] for other in ours if "ONNX" in other and "ONNX" not in name}
        if rivals:
            best = max(rivals, key=rivals.__getitem__)
            part.record(f"{best} of {name}: above {NEAR:g} ours goes", rivals[best] / rate, "x", at_most=NEAR)
    if part.device == "cpu":
        with part.attempt("Torch-TensorRT"):
            open_torch_tensorrt(part, make_small_extractor())
