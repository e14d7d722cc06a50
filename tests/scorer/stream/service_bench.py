"""A service on the in-memory broker with the real engine."""

import base64
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from threadpoolctl import threadpool_limits

from ingest.detect import FaceDetector, load_detector
from ingest.probe import Limits
from ingest.sandbox import Sandbox
from scorer.bundle.bundle import Bundle, read_bundle
from scorer.decide import Policy
from scorer.engines.openvino import LocalEmbedder
from scorer.engines.pool import EmbedderPool
from scorer.messages import ScoreRequest
from scorer.payloads.read import read_payload
from scorer.policies import PolicyWatcher
from scorer.settings import HealthSettings, PayloadSettings, StreamSettings
from scorer.stream.broker import Outgoing, RecordSink, RecordSource, TopicPartition
from scorer.stream.health import HealthState
from scorer.stream.memory_broker import MemoryBroker, MemorySink, MemorySource
from scorer.stream.metrics import Metrics
from scorer.stream.pipeline import Dependencies
from scorer.stream.service import Service

PLACE = TopicPartition("unlensed.requests", 0)
FACE = {"face_id": "0", "box": [180, 70, 95, 110]}
DEAD = ("a" * 12, "b" * 12, "c" * 12)


def read_inline(request: ScoreRequest, max_bytes: int) -> bytes:
    """Return a request's inline image."""
    return read_payload(request, PayloadSettings(), max_bytes)


@cache
def _load_detector(folder: Path) -> FaceDetector:
    return load_detector(folder, read_bundle(folder).manifest.detector, 1)


@dataclass
class Bench:
    """A service, its broker and its metrics."""

    starter: Bundle
    embedder: Any
    read: Callable[[ScoreRequest, int], bytes] = read_inline
    limits: Limits = field(default_factory=Limits)
    broker: MemoryBroker = field(default_factory=MemoryBroker)
    metrics: Metrics = field(default_factory=Metrics)
    stop: threading.Event = field(default_factory=threading.Event)
    source: Callable[..., RecordSource] = MemorySource
    sink: Callable[..., RecordSink] = MemorySink
    engine_waits: Callable[[], bool] = lambda: False
    policy: Policy = field(default_factory=Policy)
    sandbox: Sandbox | None = None  # with it, statements are read

    def send(self, *values: object) -> None:
        """Append requests, as JSON unless they are bytes or None."""
        encoded = [v if v is None or isinstance(v, bytes) else json.dumps(v).encode() for v in values]
        self.broker.append(Outgoing(PLACE.topic, b"key", value) for value in encoded)

    def service(self, **settings: object) -> Service:
        """Return a service on the broker; a second BLAS thread only spins, see `scorer.stream.assemble`."""
        threadpool_limits(limits=1, user_api="blas")
        dependencies = Dependencies(
            self.read,
            self.sandbox or _load_detector(self.starter.folder),
            self.embedder,
            self.starter.model,
            self.limits,
            PolicyWatcher(None, self.starter.manifest.calibration, self.policy, provenance=True),
            provenance=self.sandbox is not None,
        )
        return Service(
            self.source(self.broker, PLACE.topic),
            self.sink(self.broker),
            dependencies,
            StreamSettings.model_validate(settings),
            metrics=self.metrics,
            state=HealthState(HealthSettings()),
            stop=self.stop,
            engine_waits=self.engine_waits,
        )

    def run(self, **settings: object) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
        """Serve until all records are answered; return the results and the dead letters' headers."""
        self.service(**settings).run(until_drained=True)
        results = [json.loads(record.value or b"") for record in self.broker.topics["unlensed.results"]]
        dead = [
            {name: value.decode() for name, value in record.headers}
            for record in self.broker.topics["unlensed.dead-letters"]
        ]
        return results, dead

    def count(self, name: str, **labels: str) -> float:
        """Return a metric's value."""
        return self.metrics.registry.get_sample_value(name, labels) or 0.0


@pytest.fixture
def bench(starter: Bundle, embedder: LocalEmbedder) -> Bench:
    """A bench with the starter bundle's real engine."""
    return Bench(starter, EmbedderPool([embedder]))


@pytest.fixture(scope="session")
def request_for(portrait: bytes) -> Callable[..., dict[str, Any]]:
    """Make requests that carry the portrait."""
    encoded = base64.b64encode(portrait).decode()

    def make(request_id: str, **fields: object) -> dict[str, Any]:
        return {"request_id": request_id, "content_id": "c", "image": {"bytes": encoded}, "faces": [FACE], **fields}

    return make
