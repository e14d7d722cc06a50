"""What was taken from the broker and is not yet finished: the one place that knows which offset may be committed.

A partition's records are answered in the order in which they came. An offset may be committed only when every
record below it was acknowledged; a partition that went away takes its unfinished records with it.

The ledger also counts what is held for records in flight: the record, its image until it is answered, and its answer
until that is acknowledged. A record whose partition went away while it was processed counts until it is answered.
"""

import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from scorer.stream.broker import Outgoing, Place, Record


@dataclass(slots=True, eq=False)
class Ticket:
    """One record in flight, since `received_s` of the monotonic clock.

    Attributes:
        answer: what will be produced for it.
        on_acknowledged: called once, when that is safe with the broker.
        forgotten: its partition went away while it was processed.
    """

    record: Record
    answer: Outgoing | None = None
    on_acknowledged: Callable[[], object] = lambda: None
    received_s: float = field(default_factory=time.monotonic)
    forgotten: bool = False


class Reach(NamedTuple):
    """A worker's hands in a partition: all below `offset` is acknowledged, nothing from `until` on was received."""

    offset: int
    until: int


@dataclass(slots=True)
class _Partition:
    first: int = 0  # of the records added
    reach: Reach | None = None
    committed: int | None = None
    announced: int = -1
    open: deque[Ticket] = field(default_factory=deque)


class Ledger:
    """Thread-safe. The poller opens, adds and closes; workers answer; the deliverer takes and acknowledges."""

    def __init__(self) -> None:
        self._partitions: dict[Place, _Partition] = {}
        self._changed = threading.Condition()
        self._held: dict[Ticket, int] = {}  # bytes
        self._fetched: set[Ticket] = set()  # with an image that was not in the record
        self.bytes = 0

    @property
    def images(self) -> int:
        """Records for which something is held."""
        return len(self._held)

    def open(self, place: Place) -> None:
        """Start to account for a partition that was assigned."""
        with self._changed:
            self._partitions[place] = _Partition()

    def close(self, places: Collection[Place]) -> None:
        """Forget partitions; answers to their records fall on the floor."""
        with self._changed:
            for place in places:
                for ticket in self._partitions.pop(place, _Partition()).open:
                    ticket.forgotten = True
                    if ticket.answer:
                        self._strike(ticket)
            self._changed.notify_all()

    def add(self, record: Record) -> Ticket:
        """Account for a record that was polled."""
        ticket = Ticket(record)
        with self._changed:
            partition = self._partitions[record.place]
            partition.open.append(ticket)
            if partition.reach is None:
                partition.first = record.offset
            partition.reach = Reach(partition.reach.offset if partition.reach else record.offset, record.offset + 1)
            # What base64 in the record will be decoded to; an image that is elsewhere is counted by `claim`.
            self._count(ticket, record.size + len(record.value or b"") * 3 // 4)
        return ticket

    def claim(self, ticket: Ticket, size: int, budget: int) -> None:
        """Wait until an image of `size` bytes that is not in the record fits into the budget, and count it.

        One image fits always: those that wait for their turn may be what the budget is spent on. What was claimed for
        the same record before is given back.
        """
        with self._changed:
            self._fetched.discard(ticket)
            self._count(ticket, ticket.record.size)
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._fetched or self.bytes + size <= budget)
            self._fetched.add(ticket)
            self._count(ticket, ticket.record.size + size)

    def hold(self, ticket: Ticket, size: int) -> None:
        """Count a record's image with `size` bytes, as it turned out to have."""
        with self._changed:
            self._count(ticket, ticket.record.size + size)
            self._changed.notify_all()

    def drop(self, tickets: Collection[Ticket]) -> None:
        """Forget the last records of partitions, which nobody has begun."""
        with self._changed:
            for ticket in reversed(list(tickets)):
                partition = self._partitions.get(ticket.record.place)
                if partition and partition.open and partition.open[-1] is ticket:
                    partition.open.pop()
                    self._strike(ticket)
            self._changed.notify_all()

    def answer(self, ticket: Ticket, answer: Outgoing, on_acknowledged: Callable[[], object] = lambda: None) -> None:
        """Say what is to be produced for a record, whose image is held no longer, and what to do when that is safe."""
        with self._changed:
            ticket.answer, ticket.on_acknowledged = answer, on_acknowledged
            self._fetched.discard(ticket)
            if ticket.forgotten:
                self._strike(ticket)
            else:
                self._count(ticket, ticket.record.size + _count_added(ticket.record, answer))
            self._changed.notify_all()

    def wait_ready(self, timeout_s: float, max_records: int, max_bytes: int = sys.maxsize) -> dict[Place, list[Ticket]]:
        """Return what may be produced now: of each partition the answered records before the first open one.

        One answer may be larger than `max_bytes`, alone. Nothing is taken away until `acknowledge`, so that a delivery
        that failed is simply asked for again.
        """
        with self._changed:
            if ready := self._ready(max_records, max_bytes):
                return ready
            self._changed.wait(timeout_s)
            return self._ready(max_records, max_bytes)

    def acknowledge(self, delivered: Mapping[Place, list[Ticket]]) -> None:
        """Note that the answers were acknowledged; those of partitions that went away meanwhile move no position."""
        with self._changed:
            for place, tickets in delivered.items():
                partition = self._partitions.get(place)
                for ticket in tickets:
                    if partition is None or not partition.open or partition.open[0] is not ticket:
                        break
                    partition.open.popleft()
                    offset = ticket.record.offset + 1
                    partition.reach = Reach(offset, max(offset, partition.reach.until if partition.reach else 0))
                    self._strike(ticket)
            self._changed.notify_all()
        for tickets in delivered.values():
            for ticket in tickets:
                ticket.on_acknowledged()

    def reach(self, places: Collection[Place]) -> dict[Place, Reach]:
        """Return how far these partitions are; one without a record so far is nowhere."""
        with self._changed:
            return {
                place: partition.reach
                for place in places
                if (partition := self._partitions.get(place)) and partition.reach is not None
            }

    def committed_reach(self, places: Collection[Place]) -> dict[Place, Reach]:
        """Return the same as `reach`, with what is committed in place of what is acknowledged."""
        with self._changed:
            return {
                place: Reach(
                    partition.first if partition.committed is None else partition.committed, partition.reach.until
                )
                for place in places
                if (partition := self._partitions.get(place)) and partition.reach is not None
            }

    def uncommitted(self) -> dict[Place, int]:
        """Return the offsets that have moved since they were committed."""
        with self._changed:
            return {
                place: partition.reach.offset
                for place, partition in self._partitions.items()
                if partition.reach is not None and partition.reach.offset != partition.committed
            }

    def committed(self, offsets: Mapping[Place, int]) -> None:
        """Note what was committed."""
        with self._changed:
            for place, offset in offsets.items():
                if partition := self._partitions.get(place):
                    partition.committed = offset

    def skip(self, offsets: Mapping[Place, int]) -> dict[Place, int]:
        """Note where reading is, of partitions with nothing in flight; return what of that is not committed."""
        moved = {}
        with self._changed:
            for place, offset in offsets.items():
                partition = self._partitions.get(place)
                if partition is None or partition.open:
                    continue
                if partition.reach is None:
                    partition.first = offset
                until = partition.reach.until if partition.reach else offset
                partition.reach = Reach(offset, max(offset, until))
                partition.announced = max(offset, partition.announced)  # nothing is in hand
                if partition.committed != offset:
                    moved[place] = offset
        return moved

    def unannounced(self) -> dict[Place, Reach]:
        """Return the partitions with records in hand that no note speaks of yet."""
        with self._changed:
            return {
                place: partition.reach
                for place, partition in self._partitions.items()
                if partition.reach is not None and partition.reach.until > partition.announced
            }

    def announced(self, untils: Mapping[Place, int]) -> None:
        """Note up to which offset a note speaks of records in hand, -1 for none."""
        with self._changed:
            for place, until in untils.items():
                if partition := self._partitions.get(place):
                    partition.announced = until

    def is_announced(self, ticket: Ticket) -> bool:
        """Return whether a note speaks of this record."""
        with self._changed:
            partition = self._partitions.get(ticket.record.place)
            return bool(partition and ticket.record.offset < partition.announced)

    def wait_finished(self, ticket: Ticket, timeout_s: float) -> bool:
        """Wait until a record is acknowledged or forgotten; return whether that came true."""
        with self._changed:
            return self._changed.wait_for(
                lambda: ticket not in self._partitions.get(ticket.record.place, _Partition()).open, timeout_s
            )

    def wait_fewer(self, images: int, timeout_s: float) -> None:
        """Wait until fewer than `images` are in flight."""
        with self._changed:
            self._changed.wait_for(lambda: self.images < images, timeout_s)

    def wait_empty(self, places: Collection[Place], timeout_s: float) -> bool:
        """Wait until these partitions have nothing in flight; return whether that came true."""
        with self._changed:
            return self._changed.wait_for(
                lambda: not any(self._partitions[place].open for place in places if place in self._partitions),
                timeout_s,
            )

    def oldest_timestamp_ms(self) -> int | None:
        """Return when the oldest unfinished record was written; one without a timestamp has no age."""
        with self._changed:
            written = (ticket.record.timestamp_ms for each in self._partitions.values() for ticket in each.open)
            return min((timestamp_ms for timestamp_ms in written if timestamp_ms > 0), default=None)

    def _count(self, ticket: Ticket, size: int) -> None:
        self.bytes += size - self._held.get(ticket, 0)
        self._held[ticket] = size

    def _strike(self, ticket: Ticket) -> None:
        self.bytes -= self._held.pop(ticket, 0)

    def _ready(self, max_records: int, max_bytes: int) -> dict[Place, list[Ticket]]:
        ready: dict[Place, list[Ticket]] = {}
        records, size = 0, 0
        for place, partition in self._partitions.items():
            for ticket in partition.open:
                if ticket.answer is None:
                    break
                records, size = records + 1, size + ticket.answer.size
                if records > max_records or (records > 1 and size > max_bytes):
                    return ready
                ready.setdefault(place, []).append(ticket)
        return ready


def _count_added(record: Record, answer: Outgoing) -> int:
    """Return how many bytes an answer has that its record does not share with it."""
    pairs = ((answer.key, record.key), (answer.value, record.value))
    return answer.size - sum(len(ours) for ours, its in pairs if ours and ours is its)
