"""Torch-TensorRT as a builder of plans: during the export, from the PyTorch network, in FP32 and FP16.

It lowers the network to TensorRT's layers, which are checked and built as those of an ONNX graph. Its own function that
returns a plan is not used: in release 2.13 that ignores the precision and names the output `output0`.
"""

from collections.abc import Callable
from types import ModuleType

import torch
from torch import Tensor, nn

from scorer.bundle.bundle import Bundle
from scorer.bundle.manifest import BatchProfile, PlanRule
from scorer.engines.tensorrt.compile import NetworkDefinition, build_network
from scorer.engines.tensorrt.packages import TORCH_TENSORRT, find_package
from scorer.errors import PlanBuilderMissing
from training.export.target import INPUT_TENSOR, OUTPUT_TENSOR

_TRACED_FACES = 2  # the tracer would treat 1 as a constant


class _NamedInput(nn.Module):
    """Gives the network's input the bundle's name: Torch-TensorRT uses the name of the argument."""

    def __init__(self, extractor: nn.Module) -> None:
        super().__init__()
        self.extractor = extractor

    def forward(self, crops: Tensor) -> Tensor:
        """Return the features."""
        features: Tensor = self.extractor(crops)
        return features


def build_from_network(load: Callable[[], nn.Module], bundle: Bundle, rule: PlanRule) -> tuple[bytes, str]:
    """Build the plan from the network that `load` returns; see `PlanBuilder`.

    Raises:
        PlanBuilderMissing: Torch-TensorRT is not here, or cannot build this precision.
        BundleMismatch: the network's tensors differ from the manifest's, or TensorRT refuses it.
        RuntimeError: see `define_network`.
    """
    precision, side = bundle.manifest.precision, bundle.manifest.preprocess.size
    (torch_tensorrt, obstacle), (tensorrt, _) = find_package("torch_tensorrt"), find_package("tensorrt")
    if precision not in {"fp32", "fp16"}:
        obstacle = f"only the ONNX graph has {precision}"
    elif torch_tensorrt and torch_tensorrt.ENABLED_FEATURES.tensorrt_rtx:
        obstacle = "torch_tensorrt is the package for TensorRT-RTX"
    elif torch_tensorrt and not torch_tensorrt.__version__.startswith(f"{TORCH_TENSORRT}."):
        obstacle = f"torch_tensorrt is {torch_tensorrt.__version__}, and the TensorRT of {TORCH_TENSORRT} serves"
    if obstacle or torch_tensorrt is None or tensorrt is None:
        raise PlanBuilderMissing(obstacle)
    definition = define_network(load(), side, rule.batches, torch_tensorrt, precision)
    return build_network(definition, bundle.manifest, rule.batches, tensorrt), tensorrt.__version__


def define_network(
    extractor: nn.Module, side: int, batches: BatchProfile, torch_tensorrt: ModuleType, precision: str
) -> NetworkDefinition:
    """Return TensorRT's network of `extractor`; normalisation, pooling and features stay FP32 in "fp16".

    Raises:
        RuntimeError: an operation has no equivalent in TensorRT. Nothing is left to PyTorch.
    """
    dynamo = torch_tensorrt.dynamo
    settings = dynamo.CompilationSettings(
        enable_autocast=precision == "fp16",
        autocast_low_precision_type=torch.float16,
        autocast_excluded_nodes={r".*\bnormalise$"},  # paths of modules
        autocast_excluded_ops={"torch.ops.aten.mean.dim", "torch.ops.aten.linear.default"},
    )
    example = torch.zeros((_TRACED_FACES, side, side, 3), dtype=torch.uint8)
    shapes = {INPUT_TENSOR: {0: torch.export.Dim("batch", min=batches.min, max=batches.max)}}
    # Otherwise frozen blocks are a region of their own, which the conversion to FP16 refuses.
    with torch.no_grad():
        program = torch.export.export(_NamedInput(extractor).cpu().eval(), (example,), dynamic_shapes=shapes)
        program = dynamo.lowering.pre_export_lowering(program, settings)
        program = program.run_decompositions(dynamo.lowering.get_decompositions())
        lowered = dynamo.lowering.post_lowering(program.module(), settings)
    crops = torch_tensorrt.Input(
        **{f"{name}_shape": (getattr(batches, name), side, side, 3) for name in ("min", "opt", "max")},
        dtype=torch.uint8,
    )
    interpreter = dynamo.conversion.TRTInterpreter(lowered, [crops], compilation_settings=settings)
    interpreter._construct_trt_network_def()  # noqa: SLF001 - `run` also builds, and opens the plan, which needs a GPU
    network = interpreter.ctx.net
    network.get_output(0).name = OUTPUT_TENSOR
    return NetworkDefinition(
        "the PyTorch network", interpreter.builder, network, lambda: "see TensorRT's log above", interpreter
    )
