"""Retries calls to an unavailable engine, so that the callers never see an outage.

While the engine is down, slow or overloaded, the calling thread waits. Its records fill the service's budget, the
partitions are paused, and polling continues. When the engine returns the correct results for its golden faces again,
the same faces are sent again. No record is dropped, and memory does not grow.
"""

import random
import threading
from collections.abc import Callable, Sequence

import numpy as np

from ingest.probe import EncodedFace
from ingest.reasons import Reason, Unscorable
from scorer.engines.base import Embedder, FeatureBatch
from scorer.errors import BackendUnavailable

MAX_DELAY_S = 5.0
FIRST_DELAY_S = 0.1
MAX_SINGLE_TRIES = 3


class Backoff:
    """Delays between retries: 0.1 s, doubled each time up to 5 s, with a jitter of half the delay.

    The jitter spreads the retries of workers that lost the same server.
    """

    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop
        self.reset()

    def reset(self) -> None:
        """Reset the delay after a success."""
        self._delay_s = FIRST_DELAY_S

    def wait(self) -> bool:
        """Wait for the next delay; return True at once when `stop` is set."""
        delay_s, self._delay_s = self._delay_s, min(2 * self._delay_s, MAX_DELAY_S)
        return self._stop.wait(delay_s * random.uniform(0.5, 1.5))  # noqa: S311 - jitter, no secret


class RetryStopped(Exception):
    """The service stops; the faces were not embedded."""


class RetryingEmbedder:
    """An `Embedder` that never raises `BackendUnavailable`, and raises `RetryStopped` when `stop` is set.

    Args:
        embedder: the engine.
        feature_size: the number of features for each face.
        verify: sends the golden faces through the engine; raises `BackendUnavailable` while it does not answer, and
            `BundleMismatch` when it is the engine of another bundle.
        stop: ends all waiting.
        on_outage: called with each error and, with None, at the end of an outage.
    """

    def __init__(
        self,
        embedder: Embedder,
        feature_size: int,
        verify: Callable[[], object],
        stop: threading.Event,
        on_outage: Callable[[str | None], None],
    ) -> None:
        self._embedder, self._verify, self._stop, self._on_outage = embedder, verify, stop, on_outage
        self._feature_size = feature_size
        self._probing = threading.Lock()

    @property
    def waiting(self) -> bool:
        """Whether the engine is unavailable now."""
        return self._probing.locked()

    def embed(self, faces: Sequence[EncodedFace]) -> FeatureBatch:
        """Return one row for each face, however long that takes; see `Embedder`.

        When the engine fails three times on a face sent alone, and answers its golden faces in between, that face
        receives `engine_failed`; the other faces of the batch receive their features.
        """
        try:
            return self._embedder.embed(faces)
        except BackendUnavailable as error:
            self.wait_for_engine(error)
        try:
            return self._embedder.embed(faces)
        except BackendUnavailable as error:
            self.wait_for_engine(error)
        rows = [self._embed_single(face).on_host() for face in faces]
        failures = {row: batch.failures[0] for row, batch in enumerate(rows) if batch.failures}
        return FeatureBatch(
            np.concatenate([batch.features for batch in rows]),
            failures,
            np.concatenate([batch.high_band for batch in rows]),
        )

    def wait_for_engine(self, error: BackendUnavailable | None = None) -> None:
        """Return when the engine gives the expected results for its golden faces.

        Raises:
            BundleMismatch: it gives other results.
            RetryStopped: the service stops.
        """
        with self._probing:  # one thread probes for all
            self._probe(error)

    def _probe(self, error: BackendUnavailable | None) -> None:
        backoff = Backoff(self._stop)
        while True:
            if error is not None:
                self._on_outage(str(error))
                if backoff.wait():
                    raise RetryStopped
            try:
                self._verify()
            except BackendUnavailable as again:
                error = again
            else:
                self._on_outage(None)
                return

    def _embed_single(self, face: EncodedFace) -> FeatureBatch:
        tries = 0
        while True:
            try:
                return self._embedder.embed([face])
            except BackendUnavailable as error:
                self.wait_for_engine(error)
                tries += error.blames_faces
                if tries == MAX_SINGLE_TRIES:
                    failure = Unscorable(Reason.ENGINE_FAILED, "the engine fails on this face and on no other")
                    nothing = np.full((1, self._feature_size), np.nan, np.float32)
                    return FeatureBatch(nothing, {0: failure}, nothing[:, 0])
