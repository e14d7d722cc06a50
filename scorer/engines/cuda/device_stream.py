"""The device that holds an embedder's arrays, and the stream that orders its work; in tests the device is the CPU."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ingest.device import Kind, load_array_module
from scorer.engines.cuda.faults import exit_on_gpu_loss
from scorer.mixture import Array


class DeviceStream:
    """A device and, on a GPU, one stream.

    Attributes:
        device: which kind.
        xp: CuPy on a GPU, NumPy on a CPU.

    Raises:
        DeviceUnavailable: CuPy is not installed.
    """

    def __init__(self, device: Kind) -> None:
        self.device, self.xp = device, load_array_module(device)
        # It does not wait for the default stream, which other libraries use.
        self._stream: Any = self.xp.cuda.Stream(non_blocking=True) if device == "cuda" else None

    @contextmanager
    def activate(self) -> Iterator[None]:
        """Queue the work of the block on this stream; the process exits if the GPU is lost."""
        with exit_on_gpu_loss(self._synchronise):
            if self._stream is None:
                yield
            else:
                with self._stream:
                    yield

    def copy_to_host(self, array: Array) -> NDArray[Any]:
        """Return `array` as a NumPy array, once the work queued for it is done."""
        return np.asarray(array) if self.device == "cpu" else self.xp.asnumpy(array)

    def wait(self) -> None:
        """Wait for the work queued on this stream."""
        if self._stream is not None:
            self._stream.synchronize()

    def free_memory(self) -> None:
        """Return the memory that CuPy keeps for later arrays to the GPU."""
        if self.device == "cuda":
            self.xp.get_default_memory_pool().free_all_blocks()

    def _synchronise(self) -> None:
        if self.device == "cuda":
            self.xp.cuda.runtime.deviceSynchronize()
