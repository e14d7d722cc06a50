"""Dead letters: the original is restored, and a replay sends each once."""

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scorer.commands.dlq import parse_since
from scorer.errors import BrokerUnavailable, TooScattered, UsageError
from scorer.stream.broker import Headers, OffsetAndMetadata, Outgoing, Record, TopicPartition
from scorer.stream.dead_letter_replay import (
    MAX_NOTE_CHARACTERS,
    DeadLetterFilter,
    Replay,
    ReplayedOffsets,
    list_dead_letters,
)
from scorer.stream.dead_letters import NAMES, UNREADABLE, NotReplayable, make_dead_letter, read_dead_letter, restore
from scorer.stream.memory_broker import MemoryBroker, MemorySink

HEADERS = st.lists(st.tuples(st.one_of(st.text(max_size=8), st.sampled_from(NAMES)), st.binary(max_size=8)))
RECORDS = st.builds(
    Record,
    topic=st.just("requests"),
    partition=st.integers(0, 99),
    offset=st.integers(0, 2**62),
    timestamp_ms=st.integers(0, 2**40),
    key=st.none() | st.binary(max_size=8),
    value=st.none() | st.binary(max_size=32),
    headers=HEADERS.map(tuple),
)


def as_record(dead_letter: Outgoing, offset: int = 0, timestamp_ms: int = 0) -> Record:
    """Return a dead letter as it is read again."""
    return Record(dead_letter.topic, 0, offset, timestamp_ms, dead_letter.key, dead_letter.value, dead_letter.headers)


def discard(record: Record, code: str = "not_json", message: str = "no JSON") -> Outgoing:
    """Return a dead letter."""
    return make_dead_letter(record, "dead", code, message, attempts=1, bundle_digest="d" * 64)


@given(RECORDS, st.text(), st.integers(0, 9))
def test_the_original_is_restored(record: Record, message: str, attempts: int) -> None:
    """Key, value and headers survive, and added headers have the reason."""
    dead_letter = as_record(make_dead_letter(record, "dead", "a_code", message, attempts, "digest"))
    original = restore(dead_letter)
    assert (original.topic, original.key, original.value) == ("requests", record.key, record.value)
    assert original.headers == record.headers
    reason = read_dead_letter(dead_letter).reason
    assert (reason.code, reason.topic_partition, reason.offset) == ("a_code", record.topic_partition, record.offset)
    assert (reason.timestamp_ms, reason.attempts, reason.bundle) == (record.timestamp_ms, attempts, "digest")
    assert reason.message == message.encode(errors="replace").decode()[:1000]


@given(RECORDS, st.integers(3, 6))
def test_a_letter_that_is_copied_back_does_not_grow(record: Record, crashes: int) -> None:
    """A letter keeps its own headers and two sets of added ones."""
    second = as_record(discard(as_record(discard(record))))
    dead_letter = second
    for reason in range(crashes):
        dead_letter = as_record(discard(dead_letter, f"code{reason}"))
    assert len(dead_letter.headers) == len(second.headers)
    assert dead_letter.headers[: -2 * len(NAMES)] == second.headers[: -2 * len(NAMES)]
    assert read_dead_letter(dead_letter).reason.code == f"code{crashes - 1}"


@pytest.mark.parametrize(
    "headers",
    [
        (),
        (("unlensed-error-code", b"not_json"),),
        tuple((name, b"x") for name in NAMES),
        (*((name, b"1") for name in NAMES), ("one-more", b"")),
    ],
)
def test_what_is_no_letter_is_not_restored(headers: Headers) -> None:
    """Missing, wrong or further headers make no dead letter."""
    with pytest.raises(NotReplayable):
        restore(Record("dead", 0, 0, 0, None, b"", headers))


def test_a_record_that_could_not_be_parsed_is_not_restored() -> None:
    """Its content is not known, so that nothing is sent back."""
    dead_letter = as_record(discard(Record("requests", 0, 7, 0, None, None, ((UNREADABLE, b""),))))
    assert read_dead_letter(dead_letter).reason.offset == 7
    with pytest.raises(NotReplayable, match="could not be parsed"):
        restore(dead_letter)


def test_a_line_about_a_letter_shows_nothing_of_the_record() -> None:
    """JSON about a dead letter holds neither key nor value nor headers."""
    dead_letter = as_record(discard(Record("requests", 0, 7, 0, b"secret", b"secret", (("secret", b"secret"),))))
    assert "secret" not in json.dumps(read_dead_letter(dead_letter).as_dict())


@given(st.integers(-(2**63), 2**63 - 1))
def test_any_timestamp_can_be_listed(timestamp_ms: int) -> None:
    """Any timestamp is listed; an invalid time is in no period."""
    dead_letter = as_record(discard(Record("requests", 0, 7, timestamp_ms, None, b"")), timestamp_ms=timestamp_ms)
    read = read_dead_letter(dead_letter)
    assert json.loads(json.dumps(read.as_dict()))["record"]["timestamp_ms"] == timestamp_ms
    assert DeadLetterFilter("requests").selects(read)
    assert not (
        read.written_at is None and DeadLetterFilter("requests", None, datetime(1970, 1, 1, tzinfo=UTC)).selects(read)
    )


class MemoryLog:
    """A topic of two partitions and what the positions that a group stores."""

    def __init__(self, dead_letters: list[Outgoing]) -> None:
        self.dead_letters = [
            Record("dead", n % 2, n // 2, n * 1000, each.key, each.value, each.headers)
            for n, each in enumerate(dead_letters)
        ]
        self.stored: dict[TopicPartition, OffsetAndMetadata] = {}

    def positions(self) -> Mapping[TopicPartition, OffsetAndMetadata]:
        """See `TopicLog`."""
        return dict(self.stored)

    def read(self, start: Mapping[TopicPartition, int]) -> Iterator[Record]:
        """See `TopicLog`."""
        yield from (each for each in self.dead_letters if each.offset >= start.get(each.topic_partition, 0))

    def remember(self, positions: Mapping[TopicPartition, OffsetAndMetadata]) -> None:
        """See `TopicLog`."""
        assert all(len(position.note) <= MAX_NOTE_CHARACTERS for position in positions.values())
        self.stored.update(positions)


def make_log(codes: list[str]) -> MemoryLog:
    """Return a log with a dead letter of each code; the original's value is its number."""
    return MemoryLog([discard(Record("requests", 0, n, 0, None, b"%d" % n), code) for n, code in enumerate(codes)])


def run(log: MemoryLog, code: str | None = None, *, again: bool = False, limit: int | None = None) -> list[int]:
    """Return the numbers of the originals that a replay sends as planned."""
    choice = DeadLetterFilter("requests", code)
    planned = Replay(log, choice, again=again, limit=limit).plan()
    broker = MemoryBroker()
    counts: list[int] = []
    tally = Replay(log, choice, again=again, limit=limit).run(MemorySink(broker), counts.append)
    sent = [int(record.value or b"-1") for record in broker.topics["requests"]]
    assert planned.sent == tally.sent
    assert sum(counts) == tally.sent.total() == len(sent)
    return sent


STEPS = st.lists(st.tuples(st.sampled_from([None, "a", "b"]), st.none() | st.integers(1, 5)), max_size=8)


@given(st.lists(st.sampled_from("ab"), max_size=30), STEPS)
def test_replays_send_each_once(codes: list[str], steps: list[tuple[str | None, int | None]]) -> None:
    """However replays are cut, each original is sent once in the end."""
    log = make_log(codes)
    sent: list[int] = []
    for code, limit in steps:
        now = run(log, code, limit=limit)
        assert all(code in {None, codes[number]} for number in now)
        assert limit is None or len(now) <= limit
        sent += now
    sent += run(log)
    assert sorted(sent) == list(range(len(codes)))
    assert run(log) == []


def test_again_sends_what_was_sent() -> None:
    """With --again all originals are sent again, and the stored positions stay."""
    log = make_log(list("abab"))
    assert run(log, "a") == [0, 2]
    assert sorted(run(log, again=True)) == [0, 1, 2, 3]
    assert run(log) == []


def test_a_replay_that_fails_remembers_what_was_sent() -> None:
    """The next replay continues behind the batch before the outage."""
    log = make_log(["a"] * 250)
    broker = MemoryBroker()

    class Failing(MemorySink):
        def deliver(self, records: list[Outgoing]) -> None:  # narrower is enough here
            if broker.topics["requests"]:
                message = "gone"
                raise BrokerUnavailable(message)
            super().deliver(records)

    with pytest.raises(BrokerUnavailable):
        Replay(log, DeadLetterFilter("requests")).run(Failing(broker), lambda _sent: None)
    first = {int(record.value or b"-1") for record in broker.topics["requests"]}
    assert 0 < len(first) < 250
    assert first.isdisjoint(run(log))


def test_letters_from_elsewhere_and_others_stay() -> None:
    """Letters of other topics, unknown originals and other records are not sent."""
    log = MemoryLog(
        [
            discard(Record("payments", 0, 0, 0, None, b"1")),
            discard(Record("requests", 0, 1, 0, None, None, ((UNREADABLE, b""),))),
            Outgoing("dead", None, b"no dead letter"),
        ]
    )
    assert run(log) == []
    assert Replay(log, DeadLetterFilter("requests")).plan().refused.total() == 3


@given(st.integers(0, 10**9), st.sets(st.integers(1, 5000)))
def test_memory_survives_storage(first: int, later: set[int]) -> None:
    """What was replayed is known after storing and loading, and nothing else is."""
    memory = ReplayedOffsets(OffsetAndMetadata(first))
    memory.walk(first, replayed=False)
    for offset in sorted(later):
        memory.walk(first + offset, replayed=True)
    loaded = ReplayedOffsets(memory.store())
    for offset in range(-2, 5002):
        assert loaded.knows(first + offset) == (offset < 0 or offset in later)


def test_a_memory_that_does_not_fit_is_refused() -> None:
    """A replay whose positions cannot be stored stops before it sends."""
    memory = ReplayedOffsets(None)
    number = 1
    for offset in range(100_000):
        number = number * 1103515245 + 12345 & 0x7FFFFFFF
        memory.walk(offset, replayed=offset > 0 and number >> 16 & 1 == 1)
    with pytest.raises(TooScattered):
        memory.store()


def test_listing_filters_by_code_and_time() -> None:
    """--code and --since choose; what is no dead letter is left out."""
    log = make_log(list("abab"))
    log.dead_letters.append(Record("dead", 0, 9, 0, None, b"no dead letter"))
    moment = datetime.fromtimestamp(1, UTC)
    for chosen, offsets in (({}, [0, 1, 2, 3]), ({"code": "a"}, [0, 2]), ({"since": moment}, [1, 2, 3])):
        found = list_dead_letters(log, DeadLetterFilter("requests", **chosen))
        assert [each.reason.offset for each in found] == offsets


def test_since_takes_ages_and_times() -> None:
    """Ages count back from now; a time without a zone is UTC; the rest is refused."""
    now = datetime(2026, 1, 8, tzinfo=UTC)
    assert parse_since(None, now) is None
    assert parse_since("24h", now) == now - timedelta(days=1)
    assert parse_since("2026-01-01", now) == datetime(2026, 1, 1, tzinfo=UTC)
    assert parse_since("2026-01-01T02:00+02:00", now) == datetime(2026, 1, 1, tzinfo=UTC)
    with pytest.raises(UsageError, match="yesterday"):
        parse_since("yesterday", now)
