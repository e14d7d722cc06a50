"""Build a TensorRT plan from the PyTorch network, if Torch-TensorRT and a GPU are available.

On a development machine this replaces `unlensed bundle build`. Other machines build their plan from the ONNX graph. Not
for int8 and FP8, whose quantise/dequantise pairs are in the ONNX graph only.
"""

import importlib
import importlib.util
import inspect
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from ingest.device import find_gpu
from scorer.bundle.bundle import read_bundle
from scorer.bundle.manifest import BatchProfile
from scorer.engines.tensorrt.compile import check_plan
from scorer.engines.tensorrt.plan import EnginePlan, write_plan
from scorer.errors import BundleMismatch
from training.export.target import OUTPUT_TENSOR, Deployment

_TRACED_FACES = 2


class _NamedInput(nn.Module):
    """Gives the network's input the bundle's name: Torch-TensorRT uses the name of the argument."""

    def __init__(self, extractor: nn.Module) -> None:
        super().__init__()
        self.extractor = extractor

    def forward(self, crops: Tensor) -> Tensor:
        """Return the features."""
        features: Tensor = self.extractor(crops)
        return features


def find_obstacle(deployment: Deployment) -> str:
    """Return why this machine cannot build a plan from the network; empty if it can."""
    if deployment.precision in {"int8", "fp8"}:
        return f"only the ONNX graph has {deployment.precision}"
    if obstacle := find_gpu()[1]:
        return obstacle
    return "" if importlib.util.find_spec("torch_tensorrt") else "Torch-TensorRT is not installed"


def build_plan_of_network(extractor: nn.Module, folder: Path, deployment: Deployment) -> EnginePlan:
    """Compile `extractor` on this machine's GPU and write the plan into the bundle `folder`.

    Raises:
        BundleMismatch: the plan's tensors differ from the manifest's.
        RuntimeError: Torch-TensorRT or TensorRT fails.
    """
    torch_tensorrt, tensorrt = (importlib.import_module(name) for name in ("torch_tensorrt", "tensorrt"))
    bundle = read_bundle(folder)
    data = compile_network(
        extractor,
        bundle.manifest.preprocess.size,
        deployment.batches,
        torch_tensorrt,
        half=deployment.precision == "fp16",
    )
    try:
        check_plan(data, bundle.manifest, tensorrt)
    except BundleMismatch as error:
        message = f"Torch-TensorRT built a wrong plan: {error}; run `unlensed bundle build {folder}` instead"
        raise BundleMismatch(message) from error
    return write_plan(bundle, data, "torch_tensorrt", tensorrt.__version__, find_gpu()[0])


def compile_network(
    extractor: nn.Module, side: int, batches: BatchProfile, torch_tensorrt: ModuleType, *, half: bool
) -> bytes:
    """Return the serialised engine of `extractor` for uint8 crops of `side` pixels; the pooled features stay FP32."""
    example = torch.zeros((_TRACED_FACES, side, side, 3), dtype=torch.uint8, device="cuda")
    batch = torch.export.Dim("batch", min=batches.min, max=batches.max)
    program = torch.export.export(
        _NamedInput(extractor).eval().to("cuda"), (example,), dynamic_shapes={"crops": {0: batch}}
    )
    convert = torch_tensorrt.dynamo.convert_exported_program_to_serialized_trt_engine
    crops = torch_tensorrt.Input(
        min_shape=(batches.min, side, side, 3),
        opt_shape=(batches.opt, side, side, 3),
        max_shape=(batches.max, side, side, 3),
        dtype=torch.uint8,
        name="crops",
    )
    options: dict[str, Any] = {
        "use_explicit_typing": True,
        "disable_tf32": True,
        "immutable_weights": True,
        "require_full_compilation": True,
    }
    if half:
        options |= {
            "enable_autocast": True,
            "autocast_low_precision_type": torch.float16,
            # The pooling and all later nodes. The normalisation is a product and a sum before the first convolution.
            "autocast_excluded_ops": {torch.ops.aten.mean.dim, torch.ops.aten.linear.default},
        }
    if "output_binding_names" in inspect.signature(convert).parameters:  # older versions name it output0
        options["output_binding_names"] = [OUTPUT_TENSOR]
    data: bytes = convert(program, arg_inputs=[crops], **options)
    return data
