"""The engine by ONNX Runtime: the bundle's graph on its CUDA provider, for GPUs without TensorRT.

Crops and features are bound where they are, so that nothing is copied. Every node runs on the GPU or the engine does
not open. The provider has no int8 or FP8 convolution: it rounds values as such a graph states and multiplies in FP32
(int8) or FP16 (FP8), so that these graphs give their features but gain no speed.

CUDA graphs are not used: ONNX Runtime needs buffers at fixed addresses for each batch size, and its recording fails
when another thread, such as DALI's, allocates on the GPU meanwhile (it captures in the mode "global").

On a CPU the same code runs with the CPU provider, which is how it is tested.
"""

import io
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from threading import Lock
from typing import Any, Self

import numpy as np

from ingest.device import Kind, load_array_module
from scorer.bundle.manifest import Manifest
from scorer.engines.cuda.engine import EngineUnavailable
from scorer.engines.cuda.faults import exit_on_gpu_loss, is_out_of_memory
from scorer.engines.onnx_runtime import onnxruntime
from scorer.errors import BackendUnavailable, BundleMismatch
from scorer.mixture import Array

MAX_BATCH = 256
_PROVIDERS: dict[Kind, str] = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
_FATAL = 4  # the least severity that ONNX Runtime logs; its errors are raised as exceptions
_FP16 = frozenset({"fp16", "fp8"})  # precisions whose convolutions are FP16
_ON_CPU = "assigned to the default CPU EP"  # of its exception where `session.disable_cpu_ep_fallback` is set
_UNREADABLE = ("InvalidProtobuf", "InvalidGraph", "NoModel")


class OnnxRuntimeEngine:
    """See `CudaEngine`. Threads share one session: `run` queues one batch at a time.

    Args:
        model: the ONNX graph; weights in other files are not read.
        manifest: of its bundle; states the tensors and the precision.
        device: "cuda", or "cpu" in tests.
        max_batch: the most crops of a call; memory is taken when a batch needs it.
        read: returns the bytes of the graph, which a bundle checks.

    Raises:
        EngineUnavailable: ONNX Runtime, its CUDA libraries or its kernels do not run the graph on this device.
        BundleMismatch: the file is no ONNX graph, or its tensors are not the manifest's.
        BackendUnavailable: there is no memory for one crop.
    """

    def __init__(
        self,
        model: Path,
        manifest: Manifest,
        device: Kind,
        max_batch: int = MAX_BATCH,
        read: Callable[[Path], bytes] = Path.read_bytes,
    ) -> None:
        _require_provider(device)
        self._manifest, self._device, self._xp = manifest, device, load_array_module(device)
        self._lock = Lock()
        self._stream: Any = self._xp.cuda.Stream(non_blocking=True) if device == "cuda" else None
        self._session = self._open_session(model, read(model))
        self._check_tensors(model)
        self._run_options = onnxruntime.RunOptions()
        self._run_options.add_run_config_entry("disable_synchronize_execution_providers", "1")  # only queue the work
        self.max_batch = max_batch
        self._try_one_crop(model)

    def share(self) -> Self:
        """See `CudaEngine`."""
        return self

    def run(self, crops_NHWC: Array) -> Array:
        """See `CudaEngine`."""
        manifest = self._manifest
        crops = self._xp.ascontiguousarray(crops_NHWC)
        features = self._xp.empty((len(crops), manifest.feature_size), np.float32)
        binding = self._session.io_binding()
        binding.bind_input(manifest.input_tensor, self._device, 0, np.uint8, crops.shape, _find_address(crops))
        address = _find_address(features)
        binding.bind_output(manifest.output_tensor, self._device, 0, np.float32, features.shape, address)
        # The session's cuDNN and cuBLAS handles and its stream are for one thread at a time.
        with self._lock, self._ordered():
            self._session.run_with_iobinding(binding, self._run_options)
        return features

    @contextmanager
    def _ordered(self) -> Iterator[None]:
        """Run the session's stream after what CuPy's current stream holds, and the current one after it."""
        if self._stream is None:
            yield
            return
        current = self._xp.cuda.get_current_stream()
        self._stream.wait_event(current.record())
        try:
            yield
        finally:
            current.wait_event(self._stream.record())

    def _open_session(self, model: Path, graph: bytes) -> Any:  # noqa: ANN401 - ONNX Runtime has no types
        onnxruntime.set_default_logger_severity(_FATAL)
        missing = _load_cuda() if self._device == "cuda" else []
        try:
            return onnxruntime.InferenceSession(
                graph,
                self._make_session_options(),
                providers=[(_PROVIDERS[self._device], self._make_provider_options())],
                enable_fallback=0,
            )
        except Exception as error:  # its exceptions have no common base
            raise _translate(error, model, missing) from error

    def _make_session_options(self) -> Any:  # noqa: ANN401 - ONNX Runtime has no types
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1  # a pool of threads would only wait for the GPU
        options.log_severity_level = _FATAL
        options.use_deterministic_compute = True
        # No kernel of the GPU takes quantised weights: they are dequantised once.
        options.add_session_config_entry("session.disable_quant_qdq", "1")
        if self._device == "cuda":
            options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        return options

    def _make_provider_options(self) -> dict[str, str]:
        if self._device == "cpu":
            return {}
        return {
            "device_id": "0",
            "user_compute_stream": str(self._stream.ptr),
            "arena_extend_strategy": "kSameAsRequested",  # CuPy and DALI need the rest
            "cudnn_conv_algo_search": "HEURISTIC",  # the default may time kernels: scores would differ between runs
            # FP32 in the graph means FP32. Off, the option also keeps FP16 convolutions from the tensor cores
            # (onnxruntime/core/providers/cuda/nn/conv.cc).
            "use_tf32": "1" if self._manifest.precision in _FP16 else "0",
        }

    def _check_tensors(self, model: Path) -> None:
        """Compare the graph's tensors with the manifest's; `compile_network` does so for TensorRT."""
        manifest, side = self._manifest, self._manifest.preprocess.size
        found = [
            (tensor.name, tensor.type, tensor.shape[1:])
            for tensor in (*self._session.get_inputs(), *self._session.get_outputs())
        ]
        stated = [
            (manifest.input_tensor, "tensor(uint8)", [side, side, 3]),
            (manifest.output_tensor, "tensor(float)", [manifest.feature_size]),
        ]
        if found != stated:
            message = f"{model} has the tensors {found}, the manifest states {stated}: export the bundle again"
            raise BundleMismatch(message)

    def _try_one_crop(self, model: Path) -> None:
        """Run one black crop: cuDNN is loaded and its kernels are selected only then."""
        side = self._manifest.preprocess.size
        try:
            with exit_on_gpu_loss(self._wait):
                self.run(self._xp.zeros((1, side, side, 3), np.uint8))
                self._wait()
        except Exception as error:
            raise _translate(error, model) from error

    def _wait(self) -> None:
        if self._stream is not None:
            self._stream.synchronize()


def _require_provider(device: Kind) -> None:
    if _PROVIDERS[device] not in onnxruntime.get_available_providers():
        message = (
            f"this package of ONNX Runtime {onnxruntime.__version__} has no {_PROVIDERS[device]}: "
            "uninstall onnxruntime and install onnxruntime-gpu"
        )
        raise EngineUnavailable(message)


def _translate(error: Exception, model: Path, missing: Sequence[str] = ()) -> Exception:
    """Return the exception, of one sentence, to raise for an error at the start; `missing` are CUDA libraries."""
    if is_out_of_memory(error):
        return BackendUnavailable(
            "the GPU has not enough free memory for the network and one crop: other processes use it; see nvidia-smi"
        )
    why = str(error).partition("\n")[0]
    if type(error).__name__ in _UNREADABLE:
        return BundleMismatch(f"{model} is no ONNX graph ({why}): copy the whole bundle again")
    if missing:
        why = f"{', '.join(missing)} cannot be loaded: install unlensed[gpu]"
    elif _ON_CPU in why:
        why = (
            "its CUDA provider did not start (it needs a driver for CUDA 13), or has no kernel for an operator of the "
            "graph, which would then run on the CPU"
        )
    return EngineUnavailable(f"ONNX Runtime {onnxruntime.__version__} does not run {model}: {why}")


def _load_cuda() -> list[str]:
    """Load the CUDA libraries of NVIDIA's packages, or else of the system; return those that cannot be loaded."""
    # For the FP32 operators of an FP16 graph, whose `use_tf32` is on; cuBLAS and cuDNN read the variable.
    os.environ["NVIDIA_TF32_OVERRIDE"] = "0"
    printed = io.StringIO()  # it prints to the standard output, where results go
    with redirect_stdout(printed):
        onnxruntime.preload_dlls(directory="")
    return re.findall(r"Failed to load (\S+):", printed.getvalue())


def _find_address(array: Array) -> int:
    """Return the address of an array of NumPy or CuPy."""
    return int(array.ctypes.data if isinstance(array, np.ndarray) else array.data.ptr)
