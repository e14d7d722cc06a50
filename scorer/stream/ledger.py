"""What was taken from the broker and is not yet finished: the one place that knows which offset may be committed.

A partition's records are answered in the order in which they came. An offset may be committed only when every
record below it was acknowledged; a partition that went away takes its unfinished records with it.
"""

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
    """

    record: Record
    answer: Outgoing | None = None
    on_acknowledged: Callable[[], object] = lambda: None
    received_s: float = field(default_factory=time.monotonic)


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
        self.images = 0
        self.bytes = 0

    def open(self, place: Place) -> None:
        """Start to account for a partition that was assigned."""
        with self._changed:
            self._partitions[place] = _Partition()

    def close(self, places: Collection[Place]) -> None:
        """Forget partitions; answers to their records fall on the floor."""
        with self._changed:
            for place in places:
                partition = self._partitions.pop(place, _Partition())
                self.images -= len(partition.open)
                self.bytes -= sum(ticket.record.size for ticket in partition.open)
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
            self.images += 1
            self.bytes += record.size
        return ticket

    def drop(self, tickets: Collection[Ticket]) -> None:
        """Forget the last records of partitions, which nobody has begun."""
        with self._changed:
            for ticket in reversed(list(tickets)):
                partition = self._partitions.get(ticket.record.place)
                if partition and partition.open and partition.open[-1] is ticket:
                    partition.open.pop()
                    self.images -= 1
                    self.bytes -= ticket.record.size
            self._changed.notify_all()

    def answer(self, ticket: Ticket, answer: Outgoing, on_acknowledged: Callable[[], object] = lambda: None) -> None:
        """Say what is to be produced for a record, and what to do when that is acknowledged."""
        with self._changed:
            ticket.answer, ticket.on_acknowledged = answer, on_acknowledged
            self._changed.notify_all()

    def wait_ready(self, timeout_s: float, max_records: int) -> dict[Place, list[Ticket]]:
        """Return what may be produced now: of each partition the answered records before the first open one.

        Nothing is taken away until `acknowledge`, so that a delivery that failed is simply asked for again.
        """
        with self._changed:
            if ready := self._ready(max_records):
                return ready
            self._changed.wait(timeout_s)
            return self._ready(max_records)

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
                    self.images -= 1
                    self.bytes -= ticket.record.size
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

    def _ready(self, max_records: int) -> dict[Place, list[Ticket]]:
        ready: dict[Place, list[Ticket]] = {}
        left = max_records
        for place, partition in self._partitions.items():
            tickets = []
            for ticket in partition.open:
                if ticket.answer is None or left == 0:
                    break
                tickets.append(ticket)
                left -= 1
            if tickets:
                ready[place] = tickets
        return ready
