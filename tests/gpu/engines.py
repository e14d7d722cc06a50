"""Every engine that this machine can run a network on, behind one call: crops on the device in, features out.

ONNX Runtime in FP32, FP16, INT8 and FP8, and on a GPU TensorRT (or TensorRT-RTX) in the same; a rehearsal uses ONNX
Runtime's CPU provider. An engine that does not open is a trouble of its part; the others are still measured.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from networks import SIDE, draw_crops, make_extractor
from part import Part
from torch import nn

from ingest.device import Kind, load_array_module
from ingest.spec import PreprocessSpec
from scorer.bundle.manifest import BatchProfile, Manifest
from scorer.engines.tensorrt.packages import find_package
from tests.torch_tensorrt_on_cpu import import_torch_tensorrt
from training.export.target import INPUT_TENSOR, OUTPUT_TENSOR
from training.recipes import PAPER_FEATURES, Precision

MAX_BATCH = 512
BATCHES = BatchProfile(min=1, opt=128, max=MAX_BATCH)
Array = Any  # CuPy's on a GPU, NumPy's on a CPU
Run = Callable[[Array], Array]


@dataclass(frozen=True, slots=True)
class Engine:
    """A way to run a network: `run` maps at most `max_batch` crops [n, S, S, 3] uint8 to features [n, D] FP32."""

    name: str
    run: Run
    max_batch: int


def export_graph(part: Part, network: str, precision: Precision) -> Path:
    """Return the network's ONNX graph at `precision`, exported once a report."""
    from training.export.onnx import ONNX_FILE, export_onnx  # noqa: PLC0415 - eager engines need none

    folder = part.scratch.parent / "graphs" / network / precision
    if not (folder / ONNX_FILE).exists():
        crops = draw_crops(part.choose(64, 16), seed=3)
        export_onnx(make_extractor(network), folder, precision, crops)
    return folder / ONNX_FILE


def open_engines(part: Part, network: str, precisions: tuple[Precision, ...]) -> Iterator[Engine]:
    """Yield each engine that opens, one after the other, so that each can be freed before the next."""
    for name, opener in list_engines(part, network, precisions).items():
        engine = None
        with part.attempt(f"{name} of {network}"):
            engine = opener()
        if engine is not None:
            yield engine
            del engine
            torch.cuda.empty_cache()


def list_engines(part: Part, network: str, precisions: tuple[Precision, ...]) -> dict[str, Callable[[], Engine | None]]:
    """Return how to open each engine, by name."""
    openers: dict[str, Callable[[], Engine | None]] = {}
    for precision in precisions:
        openers[f"ONNX Runtime {precision.upper()}"] = partial(open_onnx_runtime, part, network, precision)
        if part.device == "cuda":
            openers[f"TensorRT {precision.upper()}"] = partial(open_tensorrt, part, network, precision)
    if part.device == "cuda" and "fp16" in precisions:  # last, because it replaces the module `tensorrt`
        openers["Torch-TensorRT FP16"] = lambda: open_torch_tensorrt(part, make_extractor(network))
    return openers


def open_onnx_runtime(part: Part, network: str, precision: Precision) -> Engine:
    """Open the graph in ONNX Runtime."""
    from scorer.engines.cuda.onnx_runtime_engine import OnnxRuntimeEngine  # noqa: PLC0415 - costs only its own figures

    graph, manifest = export_graph(part, network, precision), make_manifest(precision)
    engine = OnnxRuntimeEngine(graph, manifest, part.device, part.choose(MAX_BATCH, 4))
    return Engine(f"ONNX Runtime {precision.upper()}", engine.run, engine.max_batch)


def make_manifest(precision: Precision) -> Manifest:
    """Return what an engine reads of a manifest."""
    return Manifest.model_construct(
        input_tensor=INPUT_TENSOR,
        output_tensor=OUTPUT_TENSOR,
        feature_size=PAPER_FEATURES,
        precision=precision,
        preprocess=PreprocessSpec(),
    )


def open_tensorrt(part: Part, network: str, precision: Precision) -> Engine:
    """Build a plan from the graph and open it, by TensorRT where it is installed, else by TensorRT-RTX."""
    from scorer.engines.cuda.tensorrt_engine import TensorRtEngine  # noqa: PLC0415 - costs only its own figures
    from scorer.engines.tensorrt.compile import compile_network  # noqa: PLC0415 - as above

    tensorrt, obstacle = find_package("tensorrt", "tensorrt_rtx", "tensorrt_rtx_bindings")
    if tensorrt is None:
        raise ModuleNotFoundError(obstacle, name="tensorrt")
    manifest = make_manifest(precision)
    plan = compile_network(export_graph(part, network, precision), manifest, BATCHES, tensorrt)
    engine = TensorRtEngine(plan, manifest, tensorrt)
    return Engine(f"{tensorrt.__name__} {precision.upper()}", engine.run, engine.max_batch)


def open_torch_tensorrt(part: Part, extractor: nn.Module) -> Engine | None:
    """Build a plan by Torch-TensorRT and open it; a rehearsal only builds it."""
    from scorer.engines.tensorrt.compile import build_network  # noqa: PLC0415 - costs only its own figures
    from training.export.torch_tensorrt_plan import define_network  # noqa: PLC0415 - as above

    (torch_tensorrt, tensorrt), manifest = import_torch_tensorrt(), make_manifest("fp16")
    definition = define_network(extractor, SIDE, BATCHES, torch_tensorrt, "fp16")
    plan = build_network(definition, manifest, BATCHES, tensorrt)
    if part.device == "cpu":
        part.note(f"Torch-TensorRT built a plan of {len(plan):,} bytes; only a GPU runs it")
        return None
    from scorer.engines.cuda.tensorrt_engine import TensorRtEngine  # noqa: PLC0415 - as above

    engine = TensorRtEngine(plan, manifest, tensorrt)
    return Engine("Torch-TensorRT FP16", engine.run, engine.max_batch)


def open_reference(network: str, device: Kind, max_batch: int) -> Engine:
    """Return the network itself in true FP32, which every engine is held against."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    extractor: nn.Module = make_extractor(network).to(device)
    xp = load_array_module(device)

    def run(crops: Array) -> Array:
        with torch.inference_mode():
            features = extractor(torch.from_dlpack(crops))
        return xp.from_dlpack(features)

    return Engine("PyTorch FP32", run, max_batch)


def embed_all(engine: Engine, crops: np.ndarray, device: Kind) -> np.ndarray:
    """Return the features [N, D] of all `crops`, batch after batch, on the host."""
    xp = load_array_module(device)
    parts = []
    for start in range(0, len(crops), engine.max_batch):
        features = engine.run(xp.asarray(crops[start : start + engine.max_batch]))
        parts.append(np.array(features) if xp is np else xp.asnumpy(features))
    return np.concatenate(parts)
