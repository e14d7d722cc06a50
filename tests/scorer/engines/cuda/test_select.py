"""Which engine is taken for a GPU bundle, and what is said of those that are not."""

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
    """No plan is built, and what TensorRT-RTX builds of the real graph does not load here: both are told."""
    engines = {"TensorRT": open_plan, "TensorRT-RTX": open_rtx, "ONNX Runtime": open_on_cpu}
    engine, name, why = choose_engine(gpu_bundle, engines)
    assert isinstance(engine, OnnxRuntimeEngine)
    assert name == "ONNX Runtime"
    assert why.startswith(
        "the first of TensorRT, TensorRT-RTX, ONNX Runtime that runs here; not TensorRT: no plan is built"
    )
    assert f"unlensed bundle build {gpu_bundle.folder}" in why
    assert "not TensorRT-RTX: " in why


def test_a_plan_of_another_graph_is_no_reason_to_take_another_engine(gpu_folder: Path, tmp_path: Path) -> None:
    """A plan that does not belong is refused, not passed over."""
    bundle = read_bundle(Path(shutil.copytree(gpu_folder, tmp_path / "bundle")))
    plan = write_plan(bundle, b"plan", "tensorrt", "10.15", find_gpu()[0] or "some GPU")
    plan.path.write_bytes(b"another plan")
    with pytest.raises(BundleMismatch, match="is not the plan that"):
        choose_engine(bundle, {"TensorRT": open_plan, "ONNX Runtime": open_on_cpu})


@without_gpu
def test_no_engine_is_one_sentence(gpu_bundle: Bundle) -> None:
    """Where none runs, each says why, and the sentence what to install."""
    with pytest.raises(BundleMismatch, match=r"not TensorRT: .*; not TensorRT-RTX: .*install unlensed\[gpu\]"):
        choose_engine(gpu_bundle, {name: ENGINES[name] for name in ("TensorRT", "TensorRT-RTX")})
