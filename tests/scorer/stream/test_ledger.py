"""The ledger: what may be produced, what may be committed, and what is forgotten."""

import threading

from hypothesis import given
from hypothesis import strategies as st

from scorer.stream.broker import Outgoing, Place, Record
from scorer.stream.ledger import Ledger, Reach, Ticket

PLACE, OTHER = Place("requests", 0), Place("requests", 1)


def record(offset: int, place: Place = PLACE, size: int = 10) -> Record:
    """Return a record of `size` bytes."""
    return Record(place.topic, place.partition, offset, offset, None, b"x" * size)


def answer(number: int = 0) -> Outgoing:
    """Return some answer."""
    return Outgoing("results", None, str(number).encode())


def filled(offsets: range, place: Place = PLACE) -> tuple[Ledger, list[Ticket]]:
    """Return a ledger with records in flight."""
    ledger = Ledger()
    ledger.open(place)
    return ledger, [ledger.add(record(offset, place)) for offset in offsets]


@given(st.permutations(range(12)), st.integers(1, 5))
def test_answers_leave_in_the_order_of_the_records(order: list[int], at_once: int) -> None:
    """Whatever order records are finished in, they leave in offset order, each once; no further offset is committed."""
    ledger, tickets = filled(range(100, 112))
    delivered: list[int] = []
    for number in order:
        ledger.answer(tickets[number], answer(number))
        while ready := ledger.wait_ready(0, at_once):
            delivered += [ticket.record.offset for ticket in ready[PLACE]]
            ledger.acknowledge(ready)
        assert ledger.reach({PLACE}) == {PLACE: Reach(100 + len(delivered), 112)}
    assert delivered == list(range(100, 112))
    assert (ledger.images, ledger.bytes) == (0, 0)


@given(st.lists(st.sampled_from(["add", "answer", "deliver", "drop", "close"]), max_size=60))
def test_the_bill_is_always_right(steps: list[str]) -> None:
    """After any sequence of steps, images and bytes are those of the records that are open."""
    ledger = Ledger()
    ledger.open(PLACE)
    open_tickets: list[Ticket] = []
    next_offset = 0
    for step in steps:
        if step == "add":
            open_tickets.append(ledger.add(record(next_offset, size=next_offset)))
            next_offset += 1
        elif step == "answer" and open_tickets:
            ledger.answer(open_tickets[0], answer())
        elif step == "deliver":
            ready = ledger.wait_ready(0, 10)
            ledger.acknowledge(ready)
            gone = ready.get(PLACE, [])
            open_tickets = [ticket for ticket in open_tickets if not any(ticket is other for other in gone)]
        elif step == "drop" and open_tickets:
            ledger.drop([open_tickets.pop()])
        elif step == "close":
            ledger.close({PLACE})
            ledger.open(PLACE)
            open_tickets = []
        assert ledger.images == len(open_tickets)
        assert ledger.bytes == sum(ticket.record.size for ticket in open_tickets)


def test_a_delivery_that_fails_is_offered_again() -> None:
    """What was not acknowledged is still there to be delivered."""
    ledger, tickets = filled(range(2))
    ledger.answer(tickets[0], answer())
    assert ledger.wait_ready(0, 10) == ledger.wait_ready(0, 10) == {PLACE: [tickets[0]]}


def test_a_lost_partition_is_not_committed() -> None:
    """An acknowledgement that comes after the partition went away moves no position, even if it came back since."""
    ledger, tickets = filled(range(2))
    ledger.answer(tickets[0], answer())
    ready = ledger.wait_ready(0, 10)
    ledger.close({PLACE})
    ledger.open(PLACE)
    ledger.add(record(0))
    ledger.acknowledge(ready)
    assert ledger.reach({PLACE}) == {PLACE: Reach(0, 1)}
    assert ledger.wait_finished(tickets[0], 0)


def test_only_what_moved_is_committed() -> None:
    """An offset is offered for commit once, and again when it moves."""
    ledger, tickets = filled(range(5, 7))
    assert ledger.uncommitted() == {PLACE: 5}
    ledger.committed({PLACE: 5})
    assert ledger.uncommitted() == {}
    ledger.answer(tickets[0], answer())
    ledger.acknowledge(ledger.wait_ready(0, 10))
    assert ledger.uncommitted() == {PLACE: 6}


def test_what_is_in_hand_is_announced_once() -> None:
    """A record is announced from its note on; only a later record asks for another note."""
    ledger, tickets = filled(range(5, 7))
    assert ledger.unannounced() == {PLACE: Reach(5, 7)}
    assert not ledger.is_announced(tickets[0])
    ledger.announced({PLACE: 7})
    assert ledger.unannounced() == {}
    assert ledger.is_announced(tickets[1])
    assert not ledger.is_announced(ledger.add(record(7)))
    assert ledger.unannounced() == {PLACE: Reach(5, 8)}


def test_a_gap_in_the_offsets_is_stepped_over() -> None:
    """Offsets that compaction or transactions took away do not stop a partition."""
    ledger = Ledger()
    ledger.open(PLACE)
    tickets = [ledger.add(record(offset)) for offset in (3, 9)]
    for ticket in tickets:
        ledger.answer(ticket, answer())
    ledger.acknowledge(ledger.wait_ready(0, 10))
    assert ledger.reach({PLACE}) == {PLACE: Reach(10, 10)}


def test_partitions_do_not_wait_for_each_other() -> None:
    """A slow record holds back its own partition only."""
    ledger, _ = filled(range(2))
    ledger.open(OTHER)
    quick = ledger.add(record(0, OTHER))
    ledger.answer(quick, answer())
    assert ledger.wait_ready(0, 10) == {OTHER: [quick]}


def test_waiting_ends_when_the_last_record_is_acknowledged() -> None:
    """`wait_empty` and `wait_finished` wake up for an acknowledgement from another thread."""
    ledger, (ticket,) = filled(range(1))
    assert not ledger.wait_empty({PLACE}, 0)
    ledger.answer(ticket, answer())
    threading.Timer(0.05, lambda: ledger.acknowledge(ledger.wait_ready(0, 1))).start()
    assert ledger.wait_empty({PLACE}, 30)
    assert ledger.wait_finished(ticket, 0)


def test_a_record_without_a_timestamp_has_no_age() -> None:
    """Timestamps of -1 and 0 are none, and do not hide those of other records."""
    ledger = Ledger()
    ledger.open(PLACE)
    for offset, timestamp_ms in enumerate((-1, 0)):
        ledger.add(Record(PLACE.topic, PLACE.partition, offset, timestamp_ms, None, b""))
    assert ledger.oldest_timestamp_ms() is None
    ledger.add(Record(PLACE.topic, PLACE.partition, 2, 5000, None, b""))
    assert ledger.oldest_timestamp_ms() == 5000
