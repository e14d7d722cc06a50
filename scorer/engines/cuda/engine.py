"""What an engine of this room is: crops in, features out, both on the device."""

from typing import Protocol, Self

from scorer.mixture import Array


class CudaEngine(Protocol):
    """A bundle's network on a device. One engine belongs to one thread at a time.

    Attributes:
        max_batch: the most crops that `run` takes at once.
    """

    max_batch: int

    def run(self, crops_NHWC: Array) -> Array:
        """Return the features [N, D] float32 of [N, S, S, 3] uint8 crops, 1 <= N <= `max_batch`.

        On a GPU the work is queued on CuPy's current stream and not waited for. The features are the caller's.

        Raises:
            RuntimeError, MemoryError: of the device; see `scorer.engines.cuda.faults`.
        """
        ...

    def share(self) -> Self:
        """Return an engine for another thread, over the same weights."""
        ...
