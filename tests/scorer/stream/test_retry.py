"""Calls are retried during outages, and a face that breaks the engine is found."""

import threading
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from ingest.probe import EncodedFace, probe_image
from ingest.reasons import Reason
from ingest.spec import Window
from scorer.engines.base import FeatureBatch
from scorer.errors import BackendUnavailable, BundleMismatch
from scorer.stream import retry
from scorer.stream.retry import RetryingEmbedder, RetryStopped


class ScriptedEngine:
    """Fails a given number of times; a face's feature is its window's left edge."""

    def __init__(self, outages: int = 0, breaks_on: int | None = None) -> None:
        self.outages, self.breaks_on, self.calls = outages, breaks_on, 0

    def embed(self, faces: Sequence[EncodedFace]) -> FeatureBatch:
        """Answer, or be unavailable."""
        self.calls += 1
        if self.outages:
            self.outages -= 1
            message = "connection refused"
            raise BackendUnavailable(message)
        lefts = [face.window.left for face in faces]
        if self.breaks_on in lefts:
            message = "the backend crashed"
            raise BackendUnavailable(message, blames_faces=True)
        return FeatureBatch(np.array(lefts, np.float32)[:, None], {}, np.array(lefts, np.float32))

    def verify(self) -> None:
        """Answer the golden faces as everything else."""
        if self.outages:
            self.outages -= 1
            message = "still refused"
            raise BackendUnavailable(message)


@pytest.fixture(autouse=True)
def _no_delay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "FIRST_DELAY_S", 0.001)
    monkeypatch.setattr(retry, "MAX_DELAY_S", 0.001)


@pytest.fixture
def faces(portrait: bytes) -> list[EncodedFace]:
    """Five windows of the portrait."""
    return [EncodedFace(portrait, probe_image(portrait), Window(left, 0, 100, 100)) for left in range(5)]


def make_retrying(
    engine: ScriptedEngine, stop: threading.Event | None = None, verify: Callable[[], object] | None = None
) -> tuple[RetryingEmbedder, list[str | None]]:
    """Return a retrying embedder and the list of its reports."""
    reports: list[str | None] = []
    return RetryingEmbedder(engine, 1, verify or engine.verify, stop or threading.Event(), reports.append), reports


def test_calls_are_retried_during_an_outage(faces: list[EncodedFace]) -> None:
    """However long an outage is, every face has its feature once the engine is back, and the end is reported."""
    embedder, reports = make_retrying(ScriptedEngine(outages=50))
    assert embedder.embed(faces).features[:, 0].tolist() == [0, 1, 2, 3, 4]
    assert reports == ["connection refused", *["still refused"] * 49, None]


def test_only_the_face_that_breaks_the_engine_is_given_up(faces: list[EncodedFace]) -> None:
    """It gets its reason after three tries alone; its batch-mates get their features."""
    embedder, _ = make_retrying(ScriptedEngine(breaks_on=2))
    batch = embedder.embed(faces)
    assert {row: failure.reason for row, failure in batch.failures.items()} == {2: Reason.ENGINE_FAILED}
    assert np.isnan(batch.features[2, 0])
    assert batch.features[[0, 1, 3, 4], 0].tolist() == [0, 1, 3, 4]


def test_waiting_ends_when_the_service_stops(faces: list[EncodedFace]) -> None:
    """A service that stops does not wait for an unavailable engine."""
    stop = threading.Event()
    embedder, _ = make_retrying(ScriptedEngine(outages=10**9), stop)
    threading.Timer(0.05, stop.set).start()
    with pytest.raises(RetryStopped):
        embedder.embed(faces)


def test_another_engine_is_refused(faces: list[EncodedFace]) -> None:
    """An engine that comes back with other answers ends the wait with an error."""

    def verify() -> None:
        message = "other answers"
        raise BundleMismatch(message)

    embedder, _ = make_retrying(ScriptedEngine(outages=1), verify=verify)
    with pytest.raises(BundleMismatch):
        embedder.embed(faces)
