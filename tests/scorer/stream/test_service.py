"""The service on the in-memory broker: one answer a record, whatever the record is."""

import base64
import json
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Any, Self

import numpy as np
import pytest

from ingest.probe import EncodedFace, Limits
from ingest.reasons import Reason, Unscorable
from scorer.bundle.bundle import Bundle
from scorer.decide import Policy
from scorer.engines.base import FeatureBatch
from scorer.engines.local import open_sandbox
from scorer.engines.openvino import LocalEmbedder
from scorer.engines.pool import EmbedderPool
from scorer.messages import Decision, ScoreRequest, StatementRule
from scorer.stream.broker import (
    Outgoing,
)
from tests.ingest.provenance.signed import make_authority
from tests.scorer.stream.service_bench import FACE, PLACE, Bench, bench, request_for

__all__ = ["bench", "request_for"]


class BlockedEngine:
    """An engine that answers when `go` is set."""

    def __init__(self, bundle: Bundle) -> None:
        self.size = bundle.manifest.feature_size
        self.go = threading.Event()
        self.batches: list[int] = []

    def embed(self, faces: Sequence[EncodedFace]) -> FeatureBatch:
        """Wait, then answer."""
        self.batches.append(len(faces))
        self.go.wait(60)
        return FeatureBatch(np.zeros((len(faces), self.size), np.float32), {}, np.zeros(len(faces), np.float32))


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


def test_a_rule_for_statements_raises_a_decision(
    starter: Bundle, embedder: LocalEmbedder, request_for: Callable[..., dict[str, Any]]
) -> None:
    """An image that states that it was generated gets the rule's decision; its face, and other images, keep theirs."""
    plain, policy = request_for("plain"), Policy(statements=(StatementRule(at_least=Decision.FLAG),))
    stated = base64.b64encode(make_authority().sign(base64.b64decode(plain["image"]["bytes"]), "image/png")).decode()
    with closing(open_sandbox(starter, 1, trust="")) as sandbox:
        bench = Bench(starter, EmbedderPool([embedder]), sandbox=sandbox, policy=policy)
        bench.send(plain, request_for("stated", image={"bytes": stated}))
        (first, second), _ = bench.run()
    assert (first["decision"], first["reason_codes"], first["provenance"]) == ("pass", [], [])
    assert (second["decision"], second["reason_codes"]) == ("flag", ["stated_generated"])
    assert "and the policy decides at least flag" in second["detail"]
    assert second["faces"] == first["faces"]


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


def test_offsets_are_stored_with_the_answers_when_exactly_once(
    bench: Bench, request_for: Callable[..., dict[str, Any]]
) -> None:
    """With transactions every record is answered once and the position is stored."""
    bench.send(*[request_for(str(number)) for number in range(5)])
    results, _ = bench.run(delivery="exactly_once")
    assert [result["request_id"] for result in results] == list("01234")
    assert bench.broker.committed[PLACE] == 5


def test_a_full_budget_pauses_partitions(starter: Bundle, request_for: Callable[..., dict[str, Any]]) -> None:
    """While the engine hangs no more records are read than the budget allows; afterwards all are answered."""
    held = BlockedEngine(starter)
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


class Fetched(bytes):
    """An image from a store; the class counts the bytes of all such images in memory."""

    in_memory = peak = 0
    _lock = threading.Lock()

    def __new__(cls, data: bytes) -> Self:
        with cls._lock:
            cls.in_memory += len(data)
            cls.peak = max(cls.peak, cls.in_memory)
        return super().__new__(cls, data)

    def __del__(self) -> None:
        with self._lock:
            type(self).in_memory -= len(self)


class Slow:
    """A slow engine, so that records wait."""

    def __init__(self, bundle: Bundle) -> None:
        self.size = bundle.manifest.feature_size

    def embed(self, faces: Sequence[EncodedFace]) -> FeatureBatch:
        """Answer late."""
        time.sleep(0.02)
        return FeatureBatch(np.zeros((len(faces), self.size), np.float32), {}, np.zeros(len(faces), np.float32))


@pytest.mark.slow
@pytest.mark.parametrize(("sizes", "count", "budget"), [((1,), 2000, 24), ((1, 5), 60, 24), ((7,), 10, 6)])
def test_images_from_stores_are_within_the_budget(
    starter: Bundle,
    request_for: Callable[..., dict[str, Any]],
    portrait: bytes,
    sizes: tuple[int, ...],
    count: int,
    budget: int,
) -> None:
    """With thousands of images in stores, no more bytes are in memory than the setting, or one larger image."""
    Fetched.peak = 0

    def read(request: ScoreRequest, max_bytes: int) -> bytes:
        size = sizes[int(request.request_id) % len(sizes)] << 20
        if size > max_bytes:
            raise Unscorable(Reason.TOO_MANY_BYTES, "too large")
        return Fetched(portrait.ljust(size, b"\0"))

    bench = Bench(starter, Slow(starter), read, limits=Limits(max_bytes=8 << 20))
    uri = {"uri": "s3://bucket/image"}
    bench.send(*[request_for(str(number), image=uri) for number in range(count)])
    results, dead = bench.run(max_in_flight_bytes=budget << 20)
    assert len(results) == count
    assert not dead
    assert max(sizes) << 20 <= Fetched.peak <= max(budget, *sizes) << 20
    assert Fetched.in_memory == 0


@pytest.mark.parametrize(("media_type", "reads"), [("Video/mp4", 1), ("image/jpeg", 2), (None, 2)])
def test_a_stated_video_is_read_in_one_step(
    starter: Bundle, request_for: Callable[..., dict[str, Any]], portrait: bytes, media_type: str | None, reads: int
) -> None:
    """A large file in a store is read twice, unless the request states a video; the bytes decide what it is."""
    asked = []

    def read(_request: ScoreRequest, max_bytes: int) -> bytes:
        asked.append(max_bytes)
        if max_bytes < 5 << 20:
            raise Unscorable(Reason.TOO_MANY_BYTES, "too large")
        return portrait.ljust(5 << 20, b"\0")

    bench = Bench(starter, Slow(starter), read)
    bench.send(request_for("a", image={"uri": "s3://bucket/a", "media_type": media_type}))
    ((result,), dead) = bench.run()
    assert (len(asked), dead) == (reads, [])
    assert result["image"]["media_type"] == "image/png"


def test_leaving_finishes_started_records(starter: Bundle, request_for: Callable[..., dict[str, Any]]) -> None:
    """On stop, the service answers started records, commits them with a closed note, and starts no more."""
    held = BlockedEngine(starter)
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


@pytest.mark.parametrize("waits", [False, True])
def test_a_drain_has_a_deadline(starter: Bundle, request_for: Callable[..., dict[str, Any]], *, waits: bool) -> None:
    """The service leaves although the engine never answers; nothing unfinished is committed.

    The records become suspects, as after a crash, unless the engine was unavailable.
    """
    bench = Bench(starter, BlockedEngine(starter), engine_waits=lambda: waits)
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
    assert bench.broker.notes[PLACE].startswith("closed" if waits else "open")
    assert not bench.broker.topics["unlensed.results"]
