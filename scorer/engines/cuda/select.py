"""Selects the engine of a GPU bundle: TensorRT with its plan, else TensorRT-RTX or ONNX Runtime with its graph."""

from collections.abc import Callable, Mapping
from types import ModuleType

from scorer.bundle.bundle import PLAN_FILE, Bundle
from scorer.engines.cuda.embedder import CudaEmbedder
from scorer.engines.cuda.engine import CudaEngine, EngineUnavailable
from scorer.engines.tensorrt.compile import compile_network
from scorer.engines.tensorrt.packages import find_package
from scorer.engines.tensorrt.plan import read_plan
from scorer.errors import BundleMismatch

OpenEngine = Callable[[Bundle], tuple[CudaEngine, str]]


def open_cuda_embedder(bundle: Bundle, threads: int) -> tuple[CudaEmbedder, str, str]:
    """Return an embedder on the GPU, the name of its engine, and why that one.

    Raises:
        BundleMismatch: the plan is not of this bundle's graph, or no engine runs it; the message states the remedy.
        BackendUnavailable: the GPU has too little free memory.
    """
    engine, name, why = choose_engine(bundle, ENGINES)
    return CudaEmbedder(bundle.model, engine, threads, "cuda"), name, why


def choose_engine(bundle: Bundle, engines: Mapping[str, OpenEngine]) -> tuple[CudaEngine, str, str]:
    """Return the first of `engines` that runs here, its name with its version, and why the earlier ones do not run.

    Raises:
        BundleMismatch, BackendUnavailable: see `open_cuda_embedder`.
    """
    obstacles: list[str] = []
    for name, open_engine in engines.items():
        try:
            engine, found = open_engine(bundle)
        except EngineUnavailable as obstacle:
            obstacles.append(f"not {name}: {obstacle}")
        else:
            return engine, found, "; ".join([f"the first of {', '.join(engines)} that runs here", *obstacles])
    message = f"{bundle.folder} needs an engine for the GPU ({'; '.join(obstacles)}): install unlensed[gpu]"
    raise BundleMismatch(message)


def open_plan(bundle: Bundle) -> tuple[CudaEngine, str]:
    """Open the plan that was built beside the bundle's graph."""
    if not (bundle.folder / PLAN_FILE).is_file():
        message = f"no plan is built, `unlensed bundle build {bundle.folder}` does that"
        raise EngineUnavailable(message)
    plan, tensorrt = read_plan(bundle), _import("tensorrt")
    from scorer.engines.cuda.tensorrt_engine import TensorRtEngine  # noqa: PLC0415 - imports CuPy, which not every installation has

    return TensorRtEngine(plan.data, bundle.manifest, tensorrt), f"TensorRT {tensorrt.__version__}"


def open_rtx(bundle: Bundle) -> tuple[CudaEngine, str]:
    """Build an engine from the bundle's graph with TensorRT-RTX, which takes about a second, and open it."""
    rule, rtx = bundle.manifest.plan, _import("tensorrt_rtx", "tensorrt_rtx_bindings")
    from scorer.engines.cuda.tensorrt_engine import TensorRtEngine  # noqa: PLC0415 - as above

    if rule is None:
        message = f"a bundle for {bundle.manifest.target} states no plan"
        raise AssertionError(message)
    try:
        plan = compile_network(bundle.extractor, bundle.manifest, rule.batches, rtx, bundle.read)
        return TensorRtEngine(plan, bundle.manifest, rtx), f"TensorRT-RTX {rtx.__version__}"
    except BundleMismatch as error:  # TensorRT-RTX supports fewer GPUs and fewer graphs than TensorRT
        raise EngineUnavailable(str(error)) from error


def open_onnx_runtime(bundle: Bundle) -> tuple[CudaEngine, str]:
    """Open the bundle's graph with ONNX Runtime."""
    onnxruntime = _import("scorer.engines.onnx_runtime").onnxruntime
    from scorer.engines.cuda.onnx_runtime_engine import OnnxRuntimeEngine  # noqa: PLC0415 - as above

    engine = OnnxRuntimeEngine(bundle.extractor, bundle.manifest, "cuda", read=bundle.read)
    return engine, f"ONNX Runtime {onnxruntime.__version__}"


ENGINES: dict[str, OpenEngine] = {
    "TensorRT": open_plan,
    "TensorRT-RTX": open_rtx,
    "ONNX Runtime": open_onnx_runtime,
}


def _import(*names: str) -> ModuleType:
    module, obstacle = find_package(*names)
    if module is None:
        raise EngineUnavailable(obstacle)
    return module
