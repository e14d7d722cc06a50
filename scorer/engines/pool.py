"""Embedders of one thread each, shared by many threads."""

from collections.abc import Sequence
from queue import SimpleQueue

from ingest.probe import EncodedFace
from scorer.engines.base import Embedder, FeatureBatch


class EmbedderPool:
    """An `Embedder` for many threads around some that belong to one thread at a time each."""

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
