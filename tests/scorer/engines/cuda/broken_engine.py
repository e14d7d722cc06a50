"""An engine that fails like a GPU with too little memory."""

from collections.abc import Callable
from typing import Self

from scorer.engines.cuda.engine import CudaEngine
from scorer.mixture import Array


class ShortOfMemory:
    """Runs an engine, but raises the result of `error` for more than `enough` crops.

    Attributes:
        max_batch: the engine's.
        batches: the number of crops of each call.
    """

    def __init__(self, engine: CudaEngine, enough: int, error: Callable[[], Exception]) -> None:
        self._engine, self._enough, self._error = engine, enough, error
        self.max_batch = engine.max_batch
        self.batches: list[int] = []

    def run(self, crops_NHWC: Array) -> Array:
        """See `CudaEngine`."""
        self.batches.append(len(crops_NHWC))
        if len(crops_NHWC) > self._enough:
            raise self._error()
        return self._engine.run(crops_NHWC)

    def share(self) -> Self:
        """See `CudaEngine`."""
        return self
