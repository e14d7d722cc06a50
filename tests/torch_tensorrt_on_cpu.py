"""Imports Torch-TensorRT, also without a driver: then the package for TensorRT-RTX, whose builder needs none."""

import os
import sys
from pathlib import Path
from types import ModuleType

import torch

TOOLS = Path(os.environ.get("UNLENSED_TOOLS", Path(__file__).resolve().parents[1] / ".tools"))


def import_torch_tensorrt() -> tuple[ModuleType, ModuleType]:
    """Return `torch_tensorrt` and its TensorRT, which replaces the module `tensorrt` in this process.

    Raises:
        ImportError: it is not installed: `make .tools/torch-tensorrt/installed`.
    """
    sys.path.append(str(TOOLS / "torch-tensorrt"))  # after the package of the extra `tensorrt`
    if not torch.cuda.is_available():  # what it asks a driver while it is imported, answered for an H200
        torch.cuda.current_device = lambda: 0
        torch.cuda.get_device_capability = lambda _device=None: (9, 0)
        import tensorrt_rtx_bindings  # noqa: PLC0415 - the package `tensorrt_rtx` only passes it on

        sys.modules["tensorrt_rtx"] = tensorrt_rtx_bindings
    import torch_tensorrt  # noqa: PLC0415 - see above

    return torch_tensorrt, sys.modules["tensorrt"]
