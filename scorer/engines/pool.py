"""A pool of embedders, each for one thread at a time, that many threads share."""

from collections.abc import Sequence
from queue import SimpleQueue

from ingest.probe import EncodedFace
from scorer.engines.base import Embedder, FeatureBatch


class EmbedderPool:
    """An `Embedder` for many threads; each call waits for a free embedder of the pool."""

    def __init__(self, embedders: Sequence[Embedder]) -> None:
        self._free: SimpleQueue[Embedder] = SimpleQueue()
        for embedder in embedders:
            self._free.put(embedder)

    def embed(self, faces: Sequence[EncodedFace]) -> FeatureBatch:
        """See `Embedder`."""
        embedder = self._free.get()
        try:
            return embedder.embed(faces)
        finally:
            self._free.put(embedder)
