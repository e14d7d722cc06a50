"""Every engine that this machine can run a network on, behind one call: crops on the device in, features out.

On a GPU: CUDA graphs in FP32, BF16 and FP16, and TensorRT (or TensorRT-RTX) in FP32, FP16 and INT8. In a rehearsal the
graphed engine without its graphs, and ONNX Runtime for the precisions that a CPU has no other engine for. What cannot
be opened is a trouble of its part and costs nothing else.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from networks import draw_crops, make_extractor
from part import Part
from torch import Tensor, nn

from training.pretext.backbone import FEATURE_SIZE
from training.recipes import Precision

MAX_BATCH = 512
Run = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Engine:
    """A way to run a network: `run` maps at most `max_batch` crops [n, S, S, 3] uint8 to features [n, D] FP32."""

    name: str
    run: Run
    max_batch: int


def export_graph(part: Part, network: str, precision: Precision) -> Path:
    """Return the network's ONNX graph at `precision`, exported once a report."""
    from training.export_onnx import ONNX_FILE, export_onnx  # noqa: PLC0415 - eager engines need none

    folder = part.scratch.parent / "graphs" / network.replace(", ", "-").replace(" ", "-") / precision
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
    max_batch = part.choose(MAX_BATCH, 4)
    openers: dict[str, Callable[[], Engine]] = {}

    def graphed(name: str, precision: Precision, dtype: torch.dtype | None) -> Engine:
        from scorer.cuda.graphed_engine import GraphedEngine  # noqa: PLC0415 - costs only its own figures

        engine = GraphedEngine(export_graph(part, network, precision), FEATURE_SIZE, part.device, max_batch, dtype)
        return Engine(name, lambda crops: torch.from_dlpack(engine.run(crops, find_stream(part.device))), max_batch)

    types: dict[str, tuple[Precision, torch.dtype | None]]
    types = {"FP32": ("fp32", None), "BF16": ("fp32", torch.bfloat16), "FP16": ("fp16", None)}
    for label, (precision, dtype) in types.items():
        if precision in precisions and (part.device == "cuda" or label != "FP16"):
            name = f"graphs {label}"
            openers[name] = lambda name=name, precision=precision, dtype=dtype: graphed(name, precision, dtype)  # type: ignore[misc]
    for precision in precisions:
        opener = open_tensorrt if part.device == "cuda" else open_runtime
        openers[f"{opener.__name__.removeprefix('open_')} {precision.upper()}"] = (
            lambda opener=opener, precision=precision: opener(part, network, precision, max_batch)  # type: ignore[misc]
        )
    return openers


def open_tensorrt(part: Part, network: str, precision: Precision, max_batch: int) -> Engine:
    """Build a plan from the graph, by TensorRT where it is installed, else by TensorRT-RTX."""
    raise NotImplementedError(part, network, precision, max_batch)


def open_runtime(part: Part, network: str, precision: Precision, max_batch: int) -> Engine:
    """Open ONNX Runtime on the CPU."""
    import onnxruntime  # noqa: PLC0415 - costs only its own figures

    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # the machine may have other work
    session = onnxruntime.InferenceSession(str(export_graph(part, network, precision)), options)
    name = session.get_inputs()[0].name
    return Engine(
        f"ONNX Runtime {precision.upper()}",
        lambda crops: torch.from_numpy(session.run(None, {name: crops.numpy()})[0]),
        max_batch,
    )


def open_reference(network: str, device: str, max_batch: int) -> Engine:
    """Return the network itself in true FP32, which every engine is held against."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    extractor: nn.Module = make_extractor(network).to(device)

    def run(crops: Tensor) -> Tensor:
        with torch.inference_mode():
            features: Tensor = extractor(crops)
        return features

    return Engine("PyTorch FP32", run, max_batch)


def find_stream(device: str) -> int:
    """Return the current stream, as engines take it."""
    return torch.cuda.current_stream().cuda_stream if device == "cuda" else 0


def embed_all(engine: Engine, crops: np.ndarray, device: str) -> np.ndarray:
    """Return the features [N, D] of all `crops`, batch after batch."""
    parts = []
    for start in range(0, len(crops), engine.max_batch):
        batch = torch.from_numpy(crops[start : start + engine.max_batch]).to(device)
        parts.append(engine.run(batch).float().cpu().numpy().copy())
    return np.concatenate(parts)
