"""The ledger: answers to produce, offsets to commit, bytes to count."""

import threading
import time
from collections.abc import Callable
from functools import partial

from hypothesis import given
from hypothesis import strategies as st

from scorer.stream.broker import Outgoing, Record, TopicPartition
from scorer.stream.ledger import InFlight, Ledger, OffsetRange

PLACE, OTHER = TopicPartition("requests", 0), TopicPartition("requests", 1)


def record(offset: int, topic_partition: TopicPartition = PLACE, size: int = 10) -> Record:
    """Return a record of `size` bytes."""
    return Record(topic_partition.topic, topic_partition.partition, offset, offset, None, b"x" * size)


def answer(number: int = 0) -> Outgoing:
    """Return some answer."""
    return Outgoing("results", None, str(number).encode())


def filled(offsets: range, topic_partition: TopicPartition = PLACE) -> tuple[Ledger, list[InFlight]]:
    """Return a ledger with records in flight."""
    ledger = Ledger()
    ledger.open(topic_partition)
    return ledger, [ledger.add(record(offset, topic_partition)) for offset in offsets]


@given(st.permutations(range(12)), st.integers(1, 5))
def test_answers_are_produced_in_the_order_of_the_records(order: list[int], at_once: int) -> None:
    """Answers are produced in offset order, once, and no further offset is committed."""
    ledger, entries = filled(range(100, 112))
    delivered: list[int] = []
    for number in order:
        ledger.answer(entries[number], answer(number))
        while ready := ledger.wait_ready(0, at_once):
            delivered += [entry.record.offset for entry in ready[PLACE]]
            ledger.acknowledge(ready)
        assert ledger.offset_ranges({PLACE}) == {PLACE: OffsetRange(100 + len(delivered), 112)}
    assert delivered == list(range(100, 112))
    assert (ledger.images, ledger.bytes) == (0, 0)


STEPS = ["add", "fetch", "answer", "answer late", "shrink", "deliver", "drop", "close"]


@given(st.lists(st.sampled_from(STEPS), max_size=60))
def test_counts_are_always_correct(steps: list[str]) -> None:
    """After any steps the counts are those in memory."""
    ledger = Ledger()
    ledger.open(PLACE)
    open_entries: list[InFlight] = []
    late: list[InFlight] = []  # their partition was revoked before they were answered
    images: dict[InFlight, int] = {}
    next_offset = 0
    for step in steps:
        if step == "add":
            open_entries.append(ledger.add(record(next_offset, size=next_offset)))
            images[open_entries[-1]] = next_offset * 3 // 4
            next_offset += 1
        elif step == "fetch" and open_entries and not open_entries[-1].answer:
            ledger.reserve_image(open_entries[-1], 70, budget=10**6)
            ledger.set_image_bytes(open_entries[-1], 50)
            images[open_entries[-1]] = 50
        elif step == "answer" and open_entries:
            ledger.answer(open_entries[0], answer())
        elif step == "shrink" and open_entries and open_entries[0].answer:
            ledger.answer(open_entries[0], answer(10))
        elif step == "answer late" and late:
            ledger.answer(late.pop(), answer())
        elif step == "deliver":
            ready = ledger.wait_ready(0, 10)
            ledger.acknowledge(ready)
            gone = ready.get(PLACE, [])
            open_entries = [entry for entry in open_entries if not any(entry is other for other in gone)]
        elif step == "drop" and open_entries:
            ledger.remove_unstarted([open_entries.pop()])
        elif step == "close":
            ledger.close({PLACE})
            ledger.open(PLACE)
            late += [entry for entry in open_entries if not entry.answer]
            open_entries = []
        held = [*open_entries, *late]
        added = [entry.answer.size if entry.answer else images[entry] for entry in held]
        assert ledger.images == len(held)
        assert ledger.bytes == sum(entry.record.size for entry in held) + sum(added)


def test_a_dead_letter_is_not_counted_twice() -> None:
    """Bytes that an answer shares with its record are counted once."""
    ledger, (entry,) = filled(range(1))
    ledger.answer(entry, Outgoing("dead", entry.record.key, entry.record.value, (("code", b"x"),)))
    assert ledger.bytes == 10 + 5


def in_background(work: Callable[[], object]) -> threading.Thread:
    """Start work on a thread of its own."""
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def test_images_wait_for_room() -> None:
    """An image that does not fit waits; alone it fits whatever its size."""
    ledger, (first, second) = filled(range(2))
    ledger.reserve_image(first, 500, budget=100)
    waiting = in_background(lambda: ledger.reserve_image(second, 90, budget=100))
    waiting.join(0.1)
    assert waiting.is_alive()
    ledger.answer(first, answer())
    waiting.join(30)
    assert not waiting.is_alive()
    assert ledger.bytes == 10 + 1 + 10 + 90


def test_images_that_need_more_room_do_not_block_each_other() -> None:
    """Of two images that need more, one continues."""
    ledger, entries = filled(range(2))
    for entry in entries:
        ledger.reserve_image(entry, 40, budget=150)
    reserved: list[InFlight] = []

    def claim(entry: InFlight) -> None:
        ledger.reserve_image(entry, 120, budget=150)
        reserved.append(entry)

    threads = [in_background(partial(claim, entry)) for entry in entries]
    until_s = time.monotonic() + 30
    while len(reserved) < 1 and time.monotonic() < until_s:
        time.sleep(0.01)
    time.sleep(0.1)
    assert len(reserved) == 1
    ledger.answer(reserved[0], answer())
    for thread in threads:
        thread.join(30)
    assert set(reserved) == set(entries)


def test_a_delivery_has_a_size() -> None:
    """The size of a delivery is limited; a larger answer is delivered alone."""
    ledger, entries = filled(range(4))
    for entry, size in zip(entries, (40, 40, 40, 500), strict=True):
        ledger.answer(entry, Outgoing("results", None, bytes(size)))
    portions = []
    while ready := ledger.wait_ready(0, 10, 100):
        portions.append([entry.record.offset for entry in ready[PLACE]])
        ledger.acknowledge(ready)
    assert portions == [[0, 1], [2], [3]]


def test_a_failed_delivery_is_returned_again() -> None:
    """Unacknowledged answers are returned again."""
    ledger, entries = filled(range(2))
    ledger.answer(entries[0], answer())
    assert ledger.wait_ready(0, 10) == ledger.wait_ready(0, 10) == {PLACE: [entries[0]]}


def test_a_lost_partition_is_not_committed() -> None:
    """An acknowledgement after the revocation moves no position."""
    ledger, entries = filled(range(2))
    ledger.answer(entries[0], answer())
    ready = ledger.wait_ready(0, 10)
    ledger.close({PLACE})
    ledger.open(PLACE)
    ledger.add(record(0))
    ledger.acknowledge(ready)
    assert ledger.offset_ranges({PLACE}) == {PLACE: OffsetRange(0, 1)}
    assert ledger.wait_finished(entries[0], 0)


def test_only_changed_offsets_are_committed() -> None:
    """An offset is returned for commit once, and again when it changes."""
    ledger, entries = filled(range(5, 7))
    assert ledger.uncommitted() == {PLACE: 5}
    ledger.committed({PLACE: 5})
    assert ledger.uncommitted() == {}
    ledger.answer(entries[0], answer())
    ledger.acknowledge(ledger.wait_ready(0, 10))
    assert ledger.uncommitted() == {PLACE: 6}


def test_records_in_flight_are_noted_once() -> None:
    """A record has a note once it is written; only a later record needs another one."""
    ledger, entries = filled(range(5, 7))
    assert ledger.without_note() == {PLACE: OffsetRange(5, 7)}
    assert not ledger.has_note(entries[0])
    ledger.mark_noted({PLACE: 7})
    assert ledger.without_note() == {}
    assert ledger.has_note(entries[1])
    assert not ledger.has_note(ledger.add(record(7)))
    assert ledger.without_note() == {PLACE: OffsetRange(5, 8)}


def test_a_gap_in_the_offsets_is_passed() -> None:
    """Offsets that compaction or transactions use do not stop a partition."""
    ledger = Ledger()
    ledger.open(PLACE)
    entries = [ledger.add(record(offset)) for offset in (3, 9)]
    for entry in entries:
        ledger.answer(entry, answer())
    ledger.acknowledge(ledger.wait_ready(0, 10))
    assert ledger.offset_ranges({PLACE}) == {PLACE: OffsetRange(10, 10)}


def test_an_end_without_records_is_passed_when_nothing_is_in_flight() -> None:
    """Passed offsets are committed once, never beyond a record in flight."""
    ledger, (entry,) = filled(range(5, 6))
    ledger.open(OTHER)
    assert ledger.skip({PLACE: 7, OTHER: 3}) == {OTHER: 3}
    ledger.answer(entry, answer())
    ledger.acknowledge(ledger.wait_ready(0, 10))
    assert ledger.skip({PLACE: 7, OTHER: 3}) == {PLACE: 7, OTHER: 3}
    ledger.committed({PLACE: 7, OTHER: 3})
    assert ledger.skip({PLACE: 7, OTHER: 3}) == ledger.uncommitted() == {}
    assert ledger.without_note() == {}


def test_partitions_do_not_wait_for_each_other() -> None:
    """A slow record delays only its own partition."""
    ledger, _ = filled(range(2))
    ledger.open(OTHER)
    quick = ledger.add(record(0, OTHER))
    ledger.answer(quick, answer())
    assert ledger.wait_ready(0, 10) == {OTHER: [quick]}


def test_waiting_ends_when_the_last_record_is_acknowledged() -> None:
    """`wait_empty` and `wait_finished` wake up for an acknowledgement from another thread."""
    ledger, (entry,) = filled(range(1))
    assert not ledger.wait_empty({PLACE}, 0)
    ledger.answer(entry, answer())
    threading.Timer(0.05, lambda: ledger.acknowledge(ledger.wait_ready(0, 1))).start()
    assert ledger.wait_empty({PLACE}, 30)
    assert ledger.wait_finished(entry, 0)


def test_a_record_without_a_timestamp_has_no_age() -> None:
    """Timestamps of -1 and 0 are ignored, and do not hide those of other records."""
    ledger = Ledger()
    ledger.open(PLACE)
    for offset, timestamp_ms in enumerate((-1, 0)):
        ledger.add(Record(PLACE.topic, PLACE.partition, offset, timestamp_ms, None, b""))
    assert ledger.oldest_timestamp_ms() is None
    ledger.add(Record(PLACE.topic, PLACE.partition, 2, 5000, None, b""))
    assert ledger.oldest_timestamp_ms() == 5000
