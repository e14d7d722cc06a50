"""A partition with suspects beside others without."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from scorer.messages import ScoreRequest
from scorer.stream.broker import Record, TopicPartition
from scorer.stream.crash_notes import CrashNote, SuspectRange
from scorer.stream.isolation import Isolation
from scorer.stream.ledger import InFlight
from tests.scorer.stream.memory_group import Killed, Member, MemoryGroup
from tests.scorer.stream.service_bench import DEAD, Bench, bench, read_inline, request_for

__all__ = ["bench", "request_for"]

PLACES = [TopicPartition("unlensed.requests", number) for number in range(3)]
SUSPECTED, *OTHERS = PLACES
SUSPECTS, RECORDS = 6, 24


class WatchedMember:
    """A member that notes what it starts, and how many others are in flight then."""

    def __init__(self, bench: Bench, request_for: Callable[..., dict[str, Any]]) -> None:
        self.group = MemoryGroup({topic_partition: [] for topic_partition in PLACES})
        self.group.notes[SUSPECTED] = str(CrashNote(open=True, first=0, until=SUSPECTS, holder=DEAD[0]))
        self.started: list[str] = []
        self.others_in_flight: dict[str, int] = {}
        self.crashing = ""
        for topic_partition in PLACES:
            for offset in range(RECORDS):
                value = json.dumps(request_for(f"{topic_partition.partition}-{offset}")).encode()
                self.group.send(topic_partition, b"key", value)
        self.member = Member(self.group, lambda member: self._serve(bench, member))

    def run(self) -> None:
        """Let the member run until all is committed or it has ended."""
        for _ in range(3000):
            if self.member.dead or list(self.group.committed.values()) == [RECORDS] * len(PLACES):
                return
            self.member.turn()
        pytest.fail(f"not finished: {self.group.committed}")

    def _serve(self, bench: Bench, member: Member) -> None:
        def read(request: ScoreRequest, max_bytes: int) -> bytes:
            self.started.append(request.request_id)
            self.others_in_flight[request.request_id] = len(self.started) - 1 - len(self.group.answers)
            if request.request_id == self.crashing:
                member.kill()
                raise Killed
            return read_inline(request, max_bytes)

        served = Bench(bench.starter, bench.embedder, read, source=lambda *_: member, sink=lambda *_: member)
        served.service(batch_age_s=0.001).run()


@pytest.fixture
def watched(bench: Bench, request_for: Callable[..., dict[str, Any]]) -> WatchedMember:
    """A member that takes over records that were in flight in a crash."""
    return WatchedMember(bench, request_for)


def test_a_suspect_is_alone_and_others_start_between_two(watched: WatchedMember) -> None:
    """A suspect is alone; before the next one others start in batches."""
    watched.run()
    suspects = [f"{SUSPECTED.partition}-{offset}" for offset in range(SUSPECTS)]
    assert sorted(watched.started) == sorted(
        f"{topic_partition.partition}-{offset}" for topic_partition in PLACES for offset in range(RECORDS)
    )
    assert [watched.others_in_flight[each] for each in suspects] == [0] * SUSPECTS
    order = [watched.started.index(each) for each in suspects]
    assert order == sorted(order)
    others_before = [index - number for number, index in enumerate(order)]
    assert others_before == sorted(others_before)
    # 8 records a poll: the two other partitions need a few polls, and none of them waits for the last suspect.
    assert others_before[-1] >= 5 * 8
    assert max(watched.others_in_flight.values()) >= 4, "the others did not start in batches"


def test_a_crash_with_a_suspect_affects_no_other_partition(watched: WatchedMember) -> None:
    """While a suspect is alone its note is the only open one."""
    watched.crashing = f"{SUSPECTED.partition}-3"
    watched.run()
    notes = {topic_partition: CrashNote.parse(watched.group.notes[topic_partition]) for topic_partition in PLACES}
    assert [note and note.open for note in notes.values()] == [True, False, False]
    assert notes[SUSPECTED] == CrashNote(
        open=True, first=3, until=SUSPECTS, holder=notes[OTHERS[0]].holder, crashed=DEAD[:1]
    )
    assert all(not note.crashed for topic_partition, note in notes.items() if note and topic_partition in OTHERS)


def test_partitions_with_suspects_alternate() -> None:
    """The partition that waited longest is next; records behind a suspect wait."""
    isolation = Isolation()
    for topic_partition in PLACES[:2]:
        isolation.add_suspects(topic_partition, SuspectRange(0, 3, DEAD[:1]))
    for topic_partition in PLACES:
        for offset in range(4):
            isolation.add(InFlight(Record(*topic_partition, offset, 0, None, None)))
    assert [entry.record.topic_partition for entry in isolation.split_waiting()[0]] == PLACES[2:] * 4
    order = []
    while next_alone := isolation.split_waiting()[1]:
        isolation.start_alone(chosen := isolation.choose_next(next_alone))
        order.append((chosen.record.partition, chosen.record.offset))
    assert order == [(0, 0), (1, 0), (0, 1), (1, 1), (0, 2), (1, 2)]
    assert [entry.record.offset for entry in isolation.split_waiting()[0]][:2] == [3, 3]
    assert not isolation.suspect_partitions


def test_records_that_arrive_after_a_crash_are_no_suspects() -> None:
    """Records behind the reached log end are no suspects."""
    isolation = Isolation()
    isolation.add_suspects(SUSPECTED, SuspectRange(0, 40, DEAD[:1]))
    waiting = InFlight(Record(*SUSPECTED, 0, 0, None, None))
    isolation.add(waiting)
    isolation.note_end_reached(SUSPECTED)
    assert isolation.split_waiting()[1] == {SUSPECTED: waiting}
    isolation.start_alone(waiting)
    isolation.note_end_reached(SUSPECTED)
    isolation.add(InFlight(Record(*SUSPECTED, 1, 0, None, None)))
    assert not isolation.split_waiting()[1]
