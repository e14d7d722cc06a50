"""Which engine is selected for a GPU bundle, and the message about those that are not."""

import shutil
from pathlib import Path

import pytest

from ingest.device import find_gpu
from scorer.bundle.bundle import Bundle, read_bundle
from scorer.engines.cuda.engine import CudaEngine
from scorer.engines.cuda.onnx_runtime_engine import OnnxRuntimeEngine
from scorer.engines.cuda.select import ENGINES, choose_engine, open_plan, open_rtx
from scorer.engines.tensorrt.plan import write_plan
from scorer.errors import BundleMismatch

without_gpu = pytest.mark.skipif(bool(find_gpu()[0]), reason="this machine has a GPU")


def open_on_cpu(bundle: Bundle) -> tuple[CudaEngine, str]:
    """Open the bundle's graph where there is no GPU."""
    return OnnxRuntimeEngine(bundle.extractor, bundle.manifest, "cpu"), "ONNX Runtime"


@without_gpu
def test_the_first_engine_that_runs_is_taken(gpu_bundle: Bundle) -> None:
    """No plan is built, and TensorRT-RTX's engine of the real graph does not load here: the message states both."""
    engines = {"TensorRT": open_plan, "TensorRT-RTX": open_rtx, "ONNX Runtime": open_on_cpu}
    engine, name, why = choose_engine(gpu_bundle, engines)
    assert isinstance(engine, OnnxRuntimeEngine)
    assert name == "ONNX Runtime"
    assert why.startswith(
        "the first of TensorRT, TensorRT-RTX, ONNX Runtime that runs here; not TensorRT: no plan is built"
    )
    assert f"unlensed bundle build {gpu_bundle.folder}" in why
    assert "not TensorRT-RTX: " in why


def test_a_plan_of_another_graph_is_refused(gpu_folder: Path, tmp_path: Path) -> None:
    """A plan that is not the bundle's is an error, and no other engine is tried."""
    bundle = read_bundle(Path(shutil.copytree(gpu_folder, tmp_path / "bundle")))
    plan = write_plan(bundle, b"plan", "tensorrt", "10.15", find_gpu()[0] or "some GPU")
    plan.path.write_bytes(b"another plan")
    with pytest.raises(BundleMismatch, match="is not the plan that"):
        choose_engine(bundle, {"TensorRT": open_plan, "ONNX Runtime": open_on_cpu})


@without_gpu
def test_no_engine_is_one_message(gpu_bundle: Bundle) -> None:
    """Where no engine runs, the message states why for each, and what to install."""
    with pytest.raises(BundleMismatch, match=r"not TensorRT: .*; not TensorRT-RTX: .*install unlensed\[gpu\]"):
        choose_engine(gpu_bundle, {name: ENGINES[name] for name in ("TensorRT", "TensorRT-RTX")})
