"""Waits out the engine's outages, so that nothing above this line knows of them.

An engine that is down, slow or overloaded makes the calling thread wait; the records it holds fill the service's
budget, the budget pauses the partitions, and polling goes on. When the engine answers its golden faces again, and
rightly, the same faces are sent once more. Nothing is dropped and nothing grows.
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
MAX_TRIES_ALONE = 3


class Backoff:
    """Pauses between tries: 0.1 s, then twice as long each time up to 5 s, give or take half.

    The jitter keeps workers that lost the same server from coming back all at once.
    """

    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop
        self.reset()

    def reset(self) -> None:
        """Begin again with the shortest pause: a try has succeeded."""
        self._delay_s = FIRST_DELAY_S

    def wait(self) -> bool:
        """Pause; return True, at once, when told to stop."""
        delay_s, self._delay_s = self._delay_s, min(2 * self._delay_s, MAX_DELAY_S)
        return self._stop.wait(delay_s * random.uniform(0.5, 1.5))  # noqa: S311 - jitter, no secret


class RetryStopped(Exception):
    """The service is going down; the faces were not embedded."""


class RetryingEmbedder:
    """An `Embedder` that raises `BackendUnavailable` never, and `RetryStopped` when `stop` is set.

    Args:
        embedder: the engine.
        feature_size: how many features it gives.
        verify: sends the golden faces through the engine; raises `BackendUnavailable` while it does not answer, and
            `BundleMismatch` when what came back is another bundle's engine.
        stop: ends all waiting.
        on_outage: told of each failed try and, with None, of the end of an outage.
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
        """Whether an outage is being waited out."""
        return self._probing.locked()

    def embed(self, faces: Sequence[EncodedFace]) -> FeatureBatch:
        """Return one row per face, however long that takes; see `Embedder`.

        A face that the engine fails on three times alone, while it answers for others in between, is what the engine
        fails on: it gets `engine_failed` and its batch-mates get their features.
        """
        try:
            return self._embedder.embed(faces)
        except BackendUnavailable as error:
            self.wait_for_engine(error)
        try:
            return self._embedder.embed(faces)
        except BackendUnavailable as error:
            self.wait_for_engine(error)
        rows = [self._embed_alone(face).on_host() for face in faces]
        failures = {row: batch.failures[0] for row, batch in enumerate(rows) if batch.failures}
        return FeatureBatch(
            np.concatenate([batch.features for batch in rows]),
            failures,
            np.concatenate([batch.high_band for batch in rows]),
        )

    def wait_for_engine(self, error: BackendUnavailable | None = None) -> None:
        """Return when the engine gives its golden answers.

        Raises:
            BundleMismatch: it gives other answers.
            Stopped: the service goes down.
        """
        with self._probing:  # one thread asks for all
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

    def _embed_alone(self, face: EncodedFace) -> FeatureBatch:
        tries = 0
        while True:
            try:
                return self._embedder.embed([face])
            except BackendUnavailable as error:
                self.wait_for_engine(error)
                tries += error.blames_faces
                if tries == MAX_TRIES_ALONE:
                    failure = Unscorable(Reason.ENGINE_FAILED, "the engine fails on this face and on no other")
                    nothing = np.full((1, self._feature_size), np.nan, np.float32)
                    return FeatureBatch(nothing, {0: failure}, nothing[:, 0])
