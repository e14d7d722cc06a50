"""Where an embedder's arrays live and its work is queued: a GPU and a stream of its own, or the CPU as a rehearsal."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ingest.device import Kind, load_array_module
from scorer.engines.cuda.faults import guarding_gpu
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
        # It does not wait for the default stream, on which other libraries may queue what they like.
        self._stream: Any = self.xp.cuda.Stream(non_blocking=True) if device == "cuda" else None

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Queue what runs inside on this place's stream; a GPU that is lost ends the process."""
        with guarding_gpu(self._await_gpu):
            if self._stream is None:
                yield
            else:
                with self._stream:
                    yield

    def bring_home(self, array: Array) -> NDArray[Any]:
        """Return `array` as NumPy's, when all that was queued for it is done."""
        return np.asarray(array) if self.device == "cpu" else self.xp.asnumpy(array)

    def free_memory(self) -> None:
        """Give back what the array module keeps for later."""
        if self.device == "cuda":
            self.xp.get_default_memory_pool().free_all_blocks()

    def _await_gpu(self) -> None:
        if self.device == "cuda":
            self.xp.cuda.runtime.deviceSynchronize()
