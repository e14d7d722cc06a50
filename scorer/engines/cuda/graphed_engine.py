"""The engine for GPUs without TensorRT: PyTorch's kernels, recorded once for each batch size as a CUDA graph.

A replay costs one launch instead of several hundred. Batches are filled up to the next recorded size; what the rows
that fill up hold is of no consequence. cuDNN is held to deterministic kernels, chosen without timing, and to FP32
where the graph says FP32, so that a face scores the same in every run, up to the rounding between batch sizes.

On a CPU the same steps run without recording, which is how they are tested.
"""

from collections.abc import Callable
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from ingest.device import Kind, load_array_module
from scorer.engines.cuda.faults import is_out_of_memory
from scorer.engines.cuda.onnx_network import OnnxNetwork, Precision
from scorer.errors import BackendUnavailable
from scorer.mixture import Array

# Between powers of two, so that at most a third of a large batch is filler.
BATCH_SIZES = (1, 2, 4, 8, 16, 32, 48, 64, 96, 128, 192, 256)
_WARM_UPS = 3  # cuDNN chooses its kernels and takes its memory before the recording


@dataclass(frozen=True, slots=True)
class _Recording:
    """One batch size: the graph, and where it reads and writes."""

    graph: Any
    crops: Tensor
    features: Tensor


class GraphedEngine:
    """See `Engine`.

    Args:
        model: the ONNX graph, `crops` [N, side, side, 3] uint8 to `features` [N, D] float32.
        side: of a crop, in pixels.
        device: where.
        max_batch: the largest recorded batch; smaller where the GPU lacks the memory.
        precision: None computes as the graph says; see `OnnxNetwork`.
        read: see `OnnxNetwork`.

    Raises:
        BundleMismatch: the graph cannot be read or has an operator that is not known.
        BackendUnavailable: there is no memory for one crop.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - what an engine may be opened with
        self,
        model: Path,
        side: int,
        device: Kind,
        max_batch: int = 256,
        precision: Precision | None = None,
        read: Callable[[Path], bytes] = Path.read_bytes,
    ) -> None:
        self._side, self._device, self._xp = side, device, load_array_module(device)
        self._network = OnnxNetwork(model, device, precision, read)
        self.max_batch = max_batch
        self._recordings: dict[int, _Recording] = {}
        self._record_all()

    def share(self) -> Self:
        """See `Engine`; recordings are its own, since they write to fixed places."""
        other = copy(self)
        other._record_all()  # noqa: SLF001 - its own kind
        return other

    def run(self, crops_NHWC: Array) -> Array:
        """See `Engine`."""
        if self._device == "cpu":
            with torch.inference_mode():
                return self._network(torch.from_numpy(crops_NHWC)).numpy()
        count = len(crops_NHWC)
        recording = self._recordings[min(size for size in self._recordings if size >= count)]
        features = self._xp.empty((count, recording.features.shape[1]), self._xp.float32)
        stream = torch.cuda.ExternalStream(self._xp.cuda.get_current_stream().ptr)  # type: ignore[no-untyped-call]
        with torch.cuda.stream(stream), torch.inference_mode():
            recording.crops[:count].copy_(from_dlpack(crops_NHWC))
            recording.graph.replay()
            from_dlpack(features).copy_(recording.features[:count])
        return features

    def _record_all(self) -> None:
        """Record every batch size, the largest first, so that the smaller ones use its memory."""
        if self._device == "cpu":
            return
        self._recordings = {}
        pool = torch.cuda.graph_pool_handle()
        for size in sorted({*(size for size in BATCH_SIZES if size < self.max_batch), self.max_batch}, reverse=True):
            try:
                self._recordings[size] = self._record(size, pool)
            except RuntimeError as error:
                if self._recordings or not is_out_of_memory(error):
                    raise
                torch.cuda.empty_cache()
        if not self._recordings:
            message = "the GPU has not enough free memory for one crop: other processes use it; see nvidia-smi"
            raise BackendUnavailable(message)
        self.max_batch = max(self._recordings)

    def _record(self, size: int, pool: Any) -> _Recording:  # noqa: ANN401 - PyTorch's handle has no type
        crops = torch.zeros((size, self._side, self._side, 3), dtype=torch.uint8, device=self._device)
        graph = torch.cuda.CUDAGraph()
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        exact = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
        with torch.inference_mode(), exact:
            with torch.cuda.stream(stream):
                for _ in range(_WARM_UPS):
                    self._network(crops)
            stream.synchronize()
            # Another thread may use CUDA meanwhile: only what this one must not do during a recording fails it.
            with torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
                features = self._network(crops)
        return _Recording(graph, crops, features)
