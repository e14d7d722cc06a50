"""A pool of embedders that one thread at a time may use."""

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from ingest.probe import EncodedFace
from scorer.engines.base import FeatureBatch
from scorer.engines.pool import EmbedderPool


class ExclusiveEmbedder:
    """An `Embedder` that refuses a second thread, and waits until both embedders are in use."""

    def __init__(self, both: threading.Barrier) -> None:
        self._both, self._own = both, threading.Lock()

    def embed(self, faces: Sequence[EncodedFace]) -> FeatureBatch:
        """Return nothing, once the other embedder is in use."""
        assert self._own.acquire(blocking=False)
        try:
            self._both.wait(timeout=20)
        finally:
            self._own.release()
        return FeatureBatch(np.empty((len(faces), 1), np.float32), {}, np.empty(len(faces), np.float32))


def test_each_embedder_has_one_thread_and_all_are_used() -> None:
    """Six threads on two embedders: never two in one, always both in use."""
    both = threading.Barrier(2)
    pool = EmbedderPool([ExclusiveEmbedder(both), ExclusiveEmbedder(both)])
    with ThreadPoolExecutor(6) as threads:
        assert len(list(threads.map(lambda _: pool.embed([]), range(6)))) == 6
