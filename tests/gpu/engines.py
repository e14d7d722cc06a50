"""Every engine that this machine can run a network on, behind one call: crops on the device in, features out.

On a GPU: CUDA graphs in FP32, BF16 and FP16, and TensorRT (or TensorRT-RTX) in FP32, FP16, INT8 and FP8. In a
rehearsal the graphed engine without its graphs, and ONNX Runtime for the precisions that a CPU has no other engine for.
What cannot be opened is a trouble of its part and costs nothing else.
"""

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from networks import SIDE, draw_crops, make_extractor
from part import Part
from torch import nn

from ingest.device import Kind, load_array_module
from ingest.spec import PreprocessSpec
from training.pretext.backbone import FEATURE_SIZE
from training.recipes import Precision

MAX_BATCH = 512
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
    """Yield what opens, one after the other, so that each may go before the next comes."""
    for name, opener in list_engines(part, network, precisions).items():
        engine = None
        with part.attempt(f"{name} of {network}"):
            engine = opener()
        if engine is not None:
            yield engine
            del engine
            torch.cuda.empty_cache()


def list_engines(part: Part, network: str, precisions: tuple[Precision, ...]) -> dict[str, Callable[[], Engine]]:
    """Return how to open each engine, by name."""
    openers: dict[str, Callable[[], Engine]] = {}
    for precision in precisions:
        # Its int8 and FP8 are computed at more bits, which says nothing of their units; its FP16 is slow without any.
        if precision == "fp32" or (precision == "fp16" and part.device == "cuda"):
            openers[f"graphs {precision.upper()}"] = partial(open_graphed, part, network, precision, narrowed=False)
        if precision == "fp16":
            openers["graphs BF16"] = partial(open_graphed, part, network, "fp32", narrowed=True)
    for precision in precisions:
        if part.device == "cuda":
            openers[f"TensorRT {precision.upper()}"] = partial(open_tensorrt, part, network, precision)
        else:
            openers[f"ONNX Runtime {precision.upper()}"] = partial(open_runtime, part, network, precision)
    return openers


def open_graphed(part: Part, network: str, precision: Precision, *, narrowed: bool) -> Engine:
    """Open the graph in PyTorch; `narrowed` computes an FP32 graph in BF16."""
    from scorer.engines.cuda.graphed_engine import GraphedEngine  # noqa: PLC0415 - costs only its own figures

    graph, device = export_graph(part, network, precision), part.device
    engine = GraphedEngine(graph, SIDE, device, part.choose(MAX_BATCH, 4), "bf16" if narrowed else None)  # type: ignore[arg-type]
    return Engine(f"graphs {'BF16' if narrowed else precision.upper()}", engine.run, engine.max_batch)


def open_tensorrt(part: Part, network: str, precision: Precision) -> Engine:
    """Build a plan from the graph and open it, by TensorRT where it is installed, else by TensorRT-RTX."""
    from scorer.bundle.manifest import BatchProfile, Manifest  # noqa: PLC0415 - as above
    from scorer.engines.cuda.tensorrt_engine import TensorRtEngine  # noqa: PLC0415 - costs only its own figures
    from scorer.engines.tensorrt.compile import compile_network  # noqa: PLC0415 - as above

    tensorrt = import_tensorrt()
    manifest = Manifest.model_construct(
        input_tensor="crops", output_tensor="features", feature_size=FEATURE_SIZE, preprocess=PreprocessSpec()
    )
    batches = BatchProfile(min=1, opt=128, max=MAX_BATCH)
    plan = compile_network(export_graph(part, network, precision), manifest, batches, tensorrt)
    engine = TensorRtEngine(plan, manifest, tensorrt)
    return Engine(f"{tensorrt.__name__} {precision.upper()}", engine.run, engine.max_batch)


def import_tensorrt() -> ModuleType:
    """Return the first of TensorRT's packages that is installed.

    Raises:
        ModuleNotFoundError: none is.
    """
    for name in ("tensorrt", "tensorrt_rtx", "tensorrt_rtx_bindings"):
        # Without its libraries TensorRT fails to import in ways of its own.
        with suppress(Exception):
            return import_module(name)
    message = "no package of TensorRT can be imported"
    raise ModuleNotFoundError(message, name="tensorrt")


def open_runtime(part: Part, network: str, precision: Precision) -> Engine:
    """Open ONNX Runtime on the CPU, which computes what the graph says, node by node."""
    from bundles import embed  # noqa: PLC0415 - costs only its own figures

    from training.export.onnx_features import OnnxExtractor  # noqa: PLC0415 - as above

    extractor = OnnxExtractor(export_graph(part, network, precision), FEATURE_SIZE, threads=2)
    return Engine(f"ONNX Runtime {precision.upper()}", partial(embed, extractor), part.choose(MAX_BATCH, 4))


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
