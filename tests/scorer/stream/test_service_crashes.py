"""Records that crash their worker, other exits, and refused answers."""

import hashlib
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import pytest

from scorer.errors import BrokerRefused, BrokerUnavailable, BundleMismatch
from scorer.messages import ScoreRequest
from scorer.stream.broker import Outgoing, RecordsTooLarge, TopicPartition
from scorer.stream.crash_notes import CrashNote
from scorer.stream.dead_letters import NotReplayable, restore
from scorer.stream.memory_broker import MemorySink, MemorySource
from tests.scorer.stream.service_bench import DEAD, PLACE, Bench, bench, request_for

__all__ = ["bench", "request_for"]


def test_records_of_a_crashed_worker_are_processed_alone(
    bench: Bench, request_for: Callable[..., dict[str, Any]]
) -> None:
    """Records in an open note start one at a time; others in batches."""
    bench.broker.notes[PLACE] = str(CrashNote(open=True, first=0, until=4, holder=DEAD[0]))
    bench.send(*[request_for(str(number)) for number in range(8)])
    results, dead = bench.run()
    assert len(results) == 8
    assert not dead
    assert bench.count("unlensed_isolated_records_total") == 4


class Killed(Exception):
    """Ends a service like a native crash."""


def crash_with(bench: Bench, crashing: Collection[str]) -> int:
    """Start services until all is answered, where some requests crash; return the crashes."""
    read = bench.read

    def read_or_crash(request: ScoreRequest, max_bytes: int) -> bytes:
        if request.request_id in crashing:
            raise Killed(request.request_id)
        return read(request, max_bytes)

    bench.read = read_or_crash
    for crashes in range(20):
        try:
            bench.run()
        except Killed:
            continue
        return crashes
    pytest.fail("20 crashes")


@pytest.mark.parametrize("crashing", [("2",), ("2", "3"), ("0", "1"), ("0", "1", "2", "4"), ("5", "7")])
def test_crashing_records_are_found_at_any_offset(
    bench: Bench, request_for: Callable[..., dict[str, Any]], crashing: Sequence[str]
) -> None:
    """Each causes at most three crashes and becomes one letter; others are answered once."""
    bench.send(*[request_for(str(number)) for number in range(8)])
    crashes = crash_with(bench, crashing)
    assert crashes <= 3 + 2 * (len(crashing) - 1)
    results, dead = bench.run()
    assert [letter["unlensed-offset"] for letter in dead] == list(crashing)
    assert {(letter["unlensed-error-code"], letter["unlensed-attempts"]) for letter in dead} == {("kills_worker", "3")}
    assert {result["request_id"] for result in results} == set("01234567") - set(crashing)


def test_notes_never_pass_committed_offsets(bench: Bench, request_for: Callable[..., dict[str, Any]]) -> None:
    """While commits fail no note moves, so that finished records have no crash."""
    bench.broker.notes[PLACE] = str(CrashNote(open=True, first=0, until=4, holder=DEAD[0]))
    bench.send(*[request_for(str(number)) for number in range(4)])
    notes: list[CrashNote] = []
    refused: list[int] = []

    class Rebalancing(MemorySource):
        def commit(self, offsets: Mapping[TopicPartition, int]) -> None:
            if len(refused) < 8 or refused[-1] < 2:  # the last one is after the note of finished records
                refused.append(len(notes))
                raise BrokerUnavailable(str(offsets))
            super().commit(offsets)

        def write_notes(self, texts: Mapping[TopicPartition, str]) -> None:
            notes.extend(note for text in texts.values() if (note := CrashNote.parse(text)))
            super().write_notes(texts)

    bench.source = Rebalancing
    bench.run()
    assert [(note.first, note.open) for note in notes[: refused[-1]]] == [(0, True), (0, False)]
    assert [json.loads(each.value)["request_id"] for each in bench.broker.topics["unlensed.results"]] == list("0123")


@pytest.mark.parametrize("delivery", ["at_least_once", "exactly_once"])
def test_answers_that_the_broker_refuses_stop_no_worker(
    bench: Bench, request_for: Callable[..., dict[str, Any]], delivery: str
) -> None:
    """A result becomes a letter; a letter loses its value, then key and headers."""

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
def test_a_foreseen_exit_is_no_crash(
    bench: Bench, request_for: Callable[..., dict[str, Any]], error: Exception
) -> None:
    """Workers that broker or engine refuse close their notes, however often."""
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
