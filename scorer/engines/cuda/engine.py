"""The interface of an engine on a device: crops in, features out, both in the device's memory."""

from typing import Protocol, Self

from scorer.mixture import Array


class EngineUnavailable(Exception):
    """An engine cannot run here; the message states why, for the user who asks which engine runs."""


class CudaEngine(Protocol):
    """A bundle's network on a device. One engine belongs to one thread at a time.

    Attributes:
        max_batch: the most crops that `run` takes in one call.
    """

    max_batch: int

    def run(self, crops_NHWC: Array) -> Array:
        """Return the features [N, D] float32 of [N, S, S, 3] uint8 crops, 1 <= N <= `max_batch`.

        On a GPU the work is queued on CuPy's current stream; the call does not wait for it. The features belong to
        the caller.

        Raises:
            Exception: of the device, in the class of its library; see `scorer.engines.cuda.faults`.
        """
        ...

    def share(self) -> Self:
        """Return an engine for another thread, with the same weights."""
        ...
