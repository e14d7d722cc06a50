"""The engine by TensorRT: runs a plan on crops in the GPU's memory, without a copy.

The modules `tensorrt` and `tensorrt_rtx` have the same API; a plan loads only in the one that built it.
"""

from copy import copy
from types import ModuleType
from typing import Any, Self

import cupy

from scorer.bundle.manifest import Manifest
from scorer.engines.tensorrt.compile import check_engine
from scorer.errors import BackendUnavailable, BundleMismatch
from scorer.mixture import Array


class TensorRtEngine:
    """See `CudaEngine`.

    Args:
        plan: a serialised engine.
        manifest: of its bundle; states the names and shapes of the tensors.
        tensorrt: the module that built it.

    Raises:
        BundleMismatch: this TensorRT cannot load the plan, or its tensors are not the manifest's.
        BackendUnavailable: the GPU lacks memory for the plan's largest batch.
    """

    def __init__(self, plan: bytes, manifest: Manifest, tensorrt: ModuleType) -> None:
        self._input, self._output = manifest.input_tensor, manifest.output_tensor
        self._logger = tensorrt.Logger(tensorrt.Logger.WARNING)
        self._runtime = tensorrt.Runtime(self._logger)  # must outlive the engine
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            message = (
                f"{tensorrt.__name__} {tensorrt.__version__} cannot load the plan: it was built by another version or "
                "for another GPU; build it here with `unlensed bundle build`"
            )
            raise BundleMismatch(message)
        check_engine(self._engine, manifest, tensorrt)
        self._feature_size = manifest.feature_size
        self.max_batch = int(self._engine.get_tensor_profile_shape(self._input, 0)[2][0])
        self._context = self._open_context()

    def share(self) -> Self:
        """See `CudaEngine`."""
        other = copy(self)
        other._context = self._open_context()  # noqa: SLF001 - its own class
        return other

    def run(self, crops_NHWC: Array) -> Array:
        """See `CudaEngine`."""
        crops = cupy.ascontiguousarray(crops_NHWC)
        features = cupy.empty((len(crops), self._feature_size), cupy.float32)
        context = self._context
        accepted = (
            context.set_input_shape(self._input, crops.shape)
            and context.set_tensor_address(self._input, crops.data.ptr)
            and context.set_tensor_address(self._output, features.data.ptr)
            and context.execute_async_v3(cupy.cuda.get_current_stream().ptr)
        )
        if not accepted:
            message = f"TensorRT refused a batch of {len(crops)} crops; its log above states why"
            raise RuntimeError(message)
        return features

    def _open_context(self) -> Any:  # noqa: ANN401 - TensorRT has no types
        context = self._engine.create_execution_context()
        if context is None:
            message = (
                f"the GPU has not enough free memory for the plan's batches of {self.max_batch} crops: other processes "
                "use it, see nvidia-smi; or build the plan for smaller batches"
            )
            raise BackendUnavailable(message)
        return context
