"""The service on the in-memory broker: one answer a record, whatever the record is."""

import base64
import hashlib
import json
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pytest

from ingest.detect import load_detector
from ingest.probe import EncodedFace, Limits
from scorer.bundle import Bundle, BundleMismatch
from scorer.decide import Policy
from scorer.embed import FeatureBatch
from scorer.messages import ScoreRequest
from scorer.openvino_embedder import LocalEmbedder
from scorer.payloads.read import read_payload
from scorer.payloads.settings import PayloadSettings
from scorer.policies import PolicyWatcher
from scorer.serve import Lent
from scorer.stream.broker import (
    BrokerRefused,
    BrokerUnavailable,
    MemoryBroker,
    MemorySink,
    MemorySource,
    Outgoing,
    Place,
    RecordsTooLarge,
)
from scorer.stream.caution import Note
from scorer.stream.dead_letters import NotReplayable, restore
from scorer.stream.health import HealthState
from scorer.stream.metrics import Metrics
from scorer.stream.pipeline import Parts
from scorer.stream.service import ANNOUNCED_AHEAD, Service
from scorer.stream.settings import HealthSettings, StreamSettings

PLACE = Place("unlensed.requests", 0)
FACE = {"face_id": "0", "box": [180, 70, 95, 110]}
DEAD = ("a" * 12, "b" * 12, "c" * 12)
READ = partial(read_payload, settings=PayloadSettings(), max_bytes=Limits().max_bytes)


@dataclass
class Bench:
    """A service, its broker, and what it counts."""

    starter: Bundle
    embedder: Any
    read: Callable[..., bytes] = READ
    broker: MemoryBroker = field(default_factory=MemoryBroker)
    metrics: Metrics = field(default_factory=Metrics)
    stop: threading.Event = field(default_factory=threading.Event)
    source: type[MemorySource] = MemorySource
    sink: type[MemorySink] = MemorySink

    def send(self, *values: object) -> None:
        """Append requests, as JSON unless they are bytes or None."""
        encoded = [v if v is None or isinstance(v, bytes) else json.dumps(v).encode() for v in values]
        self.broker.append(Outgoing(PLACE.topic, b"key", value) for value in encoded)

    def service(self, **settings: object) -> Service:
        """Return a service on the broker."""
        parts = Parts(
            self.read,
            load_detector(self.starter.folder, self.starter.manifest.detector, 1),
            self.embedder,
            self.starter.model,
            Limits(),
            PolicyWatcher(None, self.starter.manifest.calibration, Policy()),
        )
        return Service(
            self.source(self.broker, PLACE.topic),
            self.sink(self.broker),
            parts,
            StreamSettings.model_validate(settings),
            metrics=self.metrics,
            state=HealthState(HealthSettings()),
            stop=self.stop,
        )

    def run(self, **settings: object) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
        """Serve until all is answered; return the results and the dead letters' headers."""
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
    return Bench(starter, Lent([embedder]))


@pytest.fixture(scope="session")
def request_for(portrait: bytes) -> Callable[..., dict[str, Any]]:
    """Make requests that carry the portrait."""
    encoded = base64.b64encode(portrait).decode()

    def make(request_id: str, **fields: object) -> dict[str, Any]:
        return {
            "request_id": request_id,
            "content_id": "c",
            "image": {"bytes": encoded},
            "faces": [FACE],
            **fields,
        }

    return make


class Held:
    """An engine that answers when it is let go."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.batches: list[int] = []

    def embed(self, faces: Sequence[EncodedFace]) -> FeatureBatch:
        """Wait, then answer."""
        self.batches.append(len(faces))
        self.go.wait(60)
        return FeatureBatch(np.zeros((len(faces), 768), np.float32), {}, np.zeros(len(faces), np.float32))


def test_every_record_gets_one_answer_in_order(bench: Bench, request_for: Callable[..., dict[str, Any]]) -> None:
    """Good, bad and broken records are each answered once; results keep the order and the key of their requests."""
    bench.send(
        request_for("a"),
        b"not JSON",
        request_for("b", image={"bytes": base64.b64encode(b"no picture").decode()}),
        None,
        request_for("c", faces=None),
        request_for("d", faces=[FACE | {"box": [9000, 9000, 50, 50]}]),
        request_for("e", image={"uri": "https://127.0.0.1/secret?token=1"}),
        request_for("a"),
        request_for("f", faces=[]),
    )
    results, dead = bench.run()
    assert [(result["request_id"], result["status"]) for result in results] == [
        ("a", "scored"),
        ("b", "unsupported"),
        ("c", "scored"),
        ("d", "failed"),
        ("e", "failed"),
        ("a", "scored"),
        ("f", "no_face"),
    ]
    assert results[4]["reason_codes"] == ["forbidden_uri"]
    assert "token" not in json.dumps(results)
    assert results[0]["result_id"] == results[5]["result_id"]
    assert [letter["unlensed-error-code"] for letter in dead] == ["not_json", "null_value"]
    assert all(record.key == b"key" for record in bench.broker.topics["unlensed.results"])
    assert bench.broker.committed[PLACE] == 9
    assert bench.broker.notes[PLACE].startswith("closed first=9 until=9 ")
    assert bench.count("unlensed_records_answered_total", status="scored") == 3
    assert bench.count("unlensed_records_dead_total", code="not_json") == 1


def test_the_trace_reaches_the_result(bench: Bench, request_for: Callable[..., dict[str, Any]]) -> None:
    """A request's traceparent is on its result, and the result says what it is."""
    parent = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    value = json.dumps(request_for("a")).encode()
    bench.broker.append([Outgoing(PLACE.topic, None, value, (("traceparent", parent),))])
    bench.run()
    headers = dict(bench.broker.topics["unlensed.results"][0].headers)
    assert headers["traceparent"] == parent
    assert headers["ce_type"] == b"unlensed.result.v1"
    assert headers["unlensed-mode"] == b"live"


def test_a_shadow_writes_to_its_own_topics(bench: Bench, request_for: Callable[..., dict[str, Any]]) -> None:
    """In shadow mode nothing reaches the live topics."""
    bench.send(request_for("a"), b"bad")
    results, dead = bench.run(mode="shadow")
    assert not results
    assert not dead
    assert len(bench.broker.topics["unlensed.results.shadow"]) == 1
    assert len(bench.broker.topics["unlensed.dead-letters.shadow"]) == 1


def test_positions_go_with_the_answers_when_exactly_once(
    bench: Bench, request_for: Callable[..., dict[str, Any]]
) -> None:
    """With transactions every record is answered once and the position is stored."""
    bench.send(*[request_for(str(number)) for number in range(5)])
    results, _ = bench.run(delivery="exactly_once")
    assert [result["request_id"] for result in results] == list("01234")
    assert bench.broker.committed[PLACE] == 5


def test_a_dead_workers_records_are_processed_alone(bench: Bench, request_for: Callable[..., dict[str, Any]]) -> None:
    """After an open note the records that were in hand are begun one at a time; the rest go in batches again."""
    bench.broker.notes[PLACE] = str(Note(open=True, first=0, until=4, holder=DEAD[0]))
    bench.send(*[request_for(str(number)) for number in range(8)])
    results, dead = bench.run()
    assert len(results) == 8
    assert not dead
    assert bench.count("unlensed_isolated_records_total") == 4


def test_a_record_present_at_three_deaths_is_not_tried_again(
    bench: Bench, request_for: Callable[..., dict[str, Any]]
) -> None:
    """It becomes a dead letter that says so, and the records behind it are answered."""
    bench.broker.notes[PLACE] = str(Note(open=True, first=0, until=1, holder=DEAD[2], dead=DEAD[:2]))
    bench.send(*[request_for(str(number)) for number in range(3)])
    results, dead = bench.run()
    assert [result["request_id"] for result in results] == ["1", "2"]
    assert dead[0]["unlensed-error-code"] == "kills_worker"
    assert dead[0]["unlensed-attempts"] == "3"


def test_a_worker_leaves_a_note_before_it_begins(bench: Bench, request_for: Callable[..., dict[str, Any]]) -> None:
    """What kills a worker with its first record is seen by the next: work starts after what is in hand is noted."""

    class Deadly:
        def embed(self, faces: Sequence[EncodedFace]) -> FeatureBatch:
            raise MemoryError(len(faces))

    bench.embedder = Deadly()
    bench.send(request_for("a"))
    with pytest.raises(MemoryError):
        bench.service().run()
    note = Note.parse(bench.broker.notes[PLACE])
    assert note
    assert (note.open, note.first, note.until, note.dead) == (True, 0, 1 + ANNOUNCED_AHEAD, ())
    assert bench.broker.committed.get(PLACE, 0) == 0
    assert not bench.broker.topics["unlensed.results"]


class Killed(Exception):
    """Ends a service as a native crash would."""


def kill_with(bench: Bench, deadly: Collection[str]) -> int:
    """Start services until all is answered, where some requests end every one that begins them; return the deaths."""
    read = bench.read

    def read_or_die(request: ScoreRequest) -> bytes:
        if request.request_id in deadly:
            raise Killed(request.request_id)
        return read(request)

    bench.read = read_or_die
    for deaths in range(20):
        try:
            bench.run()
        except Killed:
            continue
        return deaths
    pytest.fail("20 deaths")


@pytest.mark.parametrize("deadly", [("2",), ("2", "3"), ("0", "1"), ("0", "1", "2", "4"), ("5", "7")])
def test_records_that_kill_are_found_wherever_they_lie(
    bench: Bench, request_for: Callable[..., dict[str, Any]], deadly: Sequence[str]
) -> None:
    """Each costs three deaths at most, is dead-lettered once and alone, and every other record is answered once."""
    bench.send(*[request_for(str(number)) for number in range(8)])
    deaths = kill_with(bench, deadly)
    assert deaths <= 3 + 2 * (len(deadly) - 1)
    results, dead = bench.run()
    assert [letter["unlensed-offset"] for letter in dead] == list(deadly)
    assert {letter["unlensed-error-code"] for letter in dead} == {"kills_worker"}
    assert {result["request_id"] for result in results} == set("01234567") - set(deadly)


def test_notes_never_pass_what_is_committed(bench: Bench, request_for: Callable[..., dict[str, Any]]) -> None:
    """While nothing can be committed no note moves on, and a worker that dies then blames nobody who is done."""
    bench.broker.notes[PLACE] = str(Note(open=True, first=0, until=4, holder=DEAD[0]))
    bench.send(*[request_for(str(number)) for number in range(4)])
    notes: list[Note] = []
    refused: list[int] = []

    class Rebalancing(MemorySource):
        def commit(self, offsets: Mapping[Place, int]) -> None:
            if len(refused) < 8:
                refused.append(len(notes))
                raise BrokerUnavailable(str(offsets))
            super().commit(offsets)

        def write_notes(self, texts: Mapping[Place, str]) -> None:
            notes.extend(note for text in texts.values() if (note := Note.parse(text)))
            super().write_notes(texts)

    bench.source = Rebalancing
    bench.run()
    assert [(note.first, note.open) for note in notes[: refused[-1]]] == [(0, True), (0, False)]
    assert [json.loads(each.value)["request_id"] for each in bench.broker.topics["unlensed.results"]] == list("0123")


@pytest.mark.parametrize("delivery", ["at_least_once", "exactly_once"])
def test_answers_that_the_broker_will_not_take_end_no_worker(
    bench: Bench, request_for: Callable[..., dict[str, Any]], delivery: str
) -> None:
    """A result becomes a dead letter; a letter goes without its value, then without key and headers; all once."""

    class Small(MemorySink):
        def deliver(self, records: Sequence[Outgoing]) -> None:
            refused = [each for each in records if each.size > {"unlensed.results": 1500}.get(each.topic, 2000)]
            if delivery == "exactly_once" and refused:
                raise RecordsTooLarge(refused, "large")
            super().deliver([each for each in records if each not in refused])
            if refused:
                raise RecordsTooLarge(refused, "large")

    bench.sink = Small
    first, second = request_for("a"), request_for("b", attributes={"x": "y" * 1000})
    bench.send(first, second, b"x" * 5000, request_for("c"))
    bench.broker.append([Outgoing(PLACE.topic, b"k" * 3000, b"z")])
    results, dead = bench.run(delivery=delivery)
    assert [result["request_id"] for result in results] == ["a", "c"]
    dead.sort(key=lambda letter: letter["unlensed-offset"])
    assert [letter["unlensed-error-code"] for letter in dead] == ["answer_too_large", "not_json", "not_json"]
    assert [letter["unlensed-offset"] for letter in dead] == ["1", "2", "4"]
    assert [letter["unlensed-left-out"] for letter in dead] == ["value", "value", "key, value, headers"]
    assert dead[1]["unlensed-value-sha256"] == hashlib.sha256(b"x" * 5000).hexdigest()
    assert dead[1]["unlensed-value-bytes"] == "5000"
    assert bench.broker.committed[PLACE] == 5
    for letter in bench.broker.topics["unlensed.dead-letters"]:
        with pytest.raises(NotReplayable, match="too large for this topic"):
            restore(letter)


@pytest.mark.parametrize("error", [BrokerRefused("no right"), BundleMismatch("another engine")])
def test_an_end_that_is_foreseen_is_no_death(
    bench: Bench, request_for: Callable[..., dict[str, Any]], error: Exception
) -> None:
    """Workers that a broker or an engine refuses close their notes and leave, however often; no request pays."""
    bench.send(*[request_for(str(number)) for number in range(6)])

    class Refusing(MemorySink):
        def deliver(self, _records: Sequence[Outgoing]) -> None:
            raise error

    bench.sink = Refusing
    for _ in range(14):
        with pytest.raises(type(error)):
            bench.service().run()
        assert bench.broker.notes[PLACE].startswith("closed first=0 ")
    bench.sink = MemorySink
    results, dead = bench.run()
    assert len(results) == 6
    assert not dead


def test_a_full_budget_pauses_and_polling_goes_on(starter: Bundle, request_for: Callable[..., dict[str, Any]]) -> None:
    """While the engine hangs no more records are taken than the budget allows; afterwards all are answered."""
    held = Held()
    bench = Bench(starter, held)
    bench.send(*[request_for(str(number)) for number in range(20)])
    service = bench.service(max_in_flight_images=5, batch_images=2)
    thread = threading.Thread(target=lambda: service.run(until_drained=True), daemon=True)
    thread.start()
    for _ in range(200):
        if bench.count("unlensed_paused"):
            break
        bench.stop.wait(0.05)
    polled = bench.count("unlensed_records_received_total", topic=PLACE.topic)
    assert bench.count("unlensed_paused") == 1
    assert polled == 5
    held.go.set()
    thread.join(30)
    assert len(bench.broker.topics["unlensed.results"]) == 20
    assert bench.count("unlensed_pauses_total", reason="images") >= 1


def test_leaving_finishes_what_was_begun(starter: Bundle, request_for: Callable[..., dict[str, Any]]) -> None:
    """Told to stop, the service answers what it has begun, commits that with a closed note, and begins no more."""
    held = Held()
    bench = Bench(starter, held)
    bench.send(*[request_for(str(number)) for number in range(20)])
    service = bench.service(max_in_flight_images=5, batch_images=5)
    thread = threading.Thread(target=service.run, daemon=True)
    thread.start()
    while not held.batches:
        bench.stop.wait(0.01)
    bench.stop.set()
    threading.Timer(0.3, held.go.set).start()
    thread.join(30)
    answered = len(bench.broker.topics["unlensed.results"])
    assert 0 < answered < 20
    assert bench.broker.committed[PLACE] == answered
    assert bench.broker.notes[PLACE].startswith("closed")


def test_a_drain_has_a_deadline(starter: Bundle, request_for: Callable[..., dict[str, Any]]) -> None:
    """An engine that never answers does not keep the service from leaving; nothing unfinished is committed."""
    bench = Bench(starter, Held())
    bench.send(request_for("a"))
    service = bench.service(drain_s=0.2, revoke_s=0.1)
    thread = threading.Thread(target=service.run, daemon=True)
    thread.start()
    while not bench.embedder.batches:
        bench.stop.wait(0.01)
    bench.stop.set()
    thread.join(30)
    assert not thread.is_alive()
    assert bench.broker.committed.get(PLACE, 0) == 0
    assert bench.broker.notes[PLACE].startswith("closed")
    assert not bench.broker.topics["unlensed.results"]
