"""Build the plan of a GPU bundle on the machine that serves, with the Python package `tensorrt` or with `trtexec`.

A plan works only with the TensorRT version that built it and on the same model of GPU. `unlensed bundle build` runs
this once per machine; a plan that is still valid is kept.
"""

import importlib
import os
import shutil
from pathlib import Path
from types import ModuleType

from ingest.device import DeviceUnavailable, find_gpu
from scorer.bundle.bundle import Bundle
from scorer.engines.tensorrt.compile import compile_network
from scorer.engines.tensorrt.plan import EnginePlan, read_plan, write_plan
from scorer.engines.tensorrt.trtexec import run_trtexec
from scorer.errors import BundleMismatch, PlanBuilderMissing

_TRTEXEC_FOLDER = "/usr/src/tensorrt/bin"  # where NVIDIA's containers have it


def build_plan(bundle: Bundle) -> EnginePlan:
    """Build the plan of `bundle` on this machine's GPU and write it beside the graph.

    Raises:
        DeviceUnavailable: there is no GPU.
        PlanBuilderMissing: TensorRT is not installed.
        BundleMismatch: the bundle is for another target, or TensorRT refuses its graph; the message states why.
        OSError: the folder cannot be written.
    """
    manifest, onnx = bundle.manifest, bundle.extractor
    if manifest.plan is None:
        message = f"{bundle.folder} is a bundle for {manifest.target}, which has no plan to build"
        raise BundleMismatch(message)
    gpu, obstacle = find_gpu()
    if obstacle:
        message = f"a plan is built on the GPU that serves it, and this machine has none ({obstacle}): run this there"
        raise DeviceUnavailable(message)
    if tensorrt := find_tensorrt():
        plan = compile_network(onnx, manifest, manifest.plan.batches, tensorrt, bundle.read)
        return write_plan(bundle, plan, "tensorrt", tensorrt.__version__, gpu)
    if program := find_trtexec():
        with bundle.copy(onnx) as folder:
            plan, version = run_trtexec(program, manifest, manifest.plan.batches, Path(folder) / manifest.extractor)
        return write_plan(bundle, plan, "trtexec", version, gpu)
    message = "TensorRT is not installed here: install its Python package tensorrt, or run this where trtexec is"
    raise PlanBuilderMissing(message)


def find_current_plan(bundle: Bundle) -> EnginePlan | None:
    """Return the plan of the bundle if it matches the graph, this GPU and, where known, this TensorRT version."""
    try:
        plan = read_plan(bundle)
    except BundleMismatch:
        return None
    tensorrt = find_tensorrt()
    if tensorrt and plan.build.builder != "trtexec" and plan.build.version != tensorrt.__version__:
        return None
    return plan


def find_tensorrt() -> ModuleType | None:
    """Return TensorRT's Python package if it is installed."""
    try:
        return importlib.import_module("tensorrt")
    except ImportError:
        return None


def find_trtexec() -> str | None:
    """Return the path of trtexec if it is installed."""
    return shutil.which("trtexec", path=os.pathsep.join([os.environ.get("PATH", ""), _TRTEXEC_FOLDER]))
