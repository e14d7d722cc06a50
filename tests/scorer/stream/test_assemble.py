"""Embedders that belong to one thread each, lent to many."""

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from ingest.probe import EncodedFace
from scorer.engines.base import FeatureBatch
from scorer.engines.pool import EmbedderPool


class Jealous:
    """An `Embedder` that notices a second thread, and waits for its like where `both` must be at work."""

    def __init__(self, both: threading.Barrier) -> None:
        self._both, self._own = both, threading.Lock()

    def embed(self, faces: Sequence[EncodedFace]) -> FeatureBatch:
        """Return nothing, once another embedder is at work, too."""
        assert self._own.acquire(blocking=False)
        try:
            self._both.wait(timeout=20)
        finally:
            self._own.release()
        return FeatureBatch(np.empty((len(faces), 1), np.float32), {}, np.empty(len(faces), np.float32))


def test_each_embedder_has_one_thread_and_all_are_at_work() -> None:
    """Six threads over two embedders: never two in one, always both busy."""
    both = threading.Barrier(2)
    lent = EmbedderPool([Jealous(both), Jealous(both)])
    with ThreadPoolExecutor(6) as threads:
        assert len(list(threads.map(lambda _: lent.embed([]), range(6)))) == 6
