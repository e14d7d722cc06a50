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

from scorer.stream.broker import Outgoing, Record, TopicPartition


@dataclass(slots=True, eq=False)
class InFlight:
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


class OffsetRange(NamedTuple):
    """A worker's hands in a partition: all below `offset` is acknowledged, nothing from `until` on was received."""

    offset: int
    until: int


@dataclass(slots=True)
class _Partition:
    first: int = 0  # of the records added
    reach: OffsetRange | None = None
    committed: int | None = None
    announced: int = -1
    open: deque[InFlight] = field(default_factory=deque)


class Ledger:
    """Thread-safe. The poller opens, adds and closes; workers answer; the deliverer takes and acknowledges."""

    def __init__(self) -> None:
        self._partitions: dict[TopicPartition, _Partition] = {}
        self._changed = threading.Condition()
        self._held: dict[InFlight, int] = {}  # bytes
        self._fetched: set[InFlight] = set()  # with an image that was not in the record
        self.bytes = 0

    @property
    def images(self) -> int:
        """Records for which something is held."""
        return len(self._held)

    def open(self, topic_partition: TopicPartition) -> None:
        """Start to account for a partition that was assigned."""
        with self._changed:
            self._partitions[topic_partition] = _Partition()

    def close(self, topic_partitions: Collection[TopicPartition]) -> None:
        """Forget partitions; answers to their records fall on the floor."""
        with self._changed:
            for topic_partition in topic_partitions:
                for entry in self._partitions.pop(topic_partition, _Partition()).open:
                    entry.forgotten = True
                    if entry.answer:
                        self._strike(entry)
            self._changed.notify_all()

    def add(self, record: Record) -> InFlight:
        """Account for a record that was polled."""
        entry = InFlight(record)
        with self._changed:
            partition = self._partitions[record.topic_partition]
            partition.open.append(entry)
            if partition.reach is None:
                partition.first = record.offset
            partition.reach = OffsetRange(
                partition.reach.offset if partition.reach else record.offset, record.offset + 1
            )
            # What base64 in the record will be decoded to; an image that is elsewhere is counted by `claim`.
            self._count(entry, record.size + len(record.value or b"") * 3 // 4)
        return entry

    def claim(self, entry: InFlight, size: int, budget: int) -> None:
        """Wait until an image of `size` bytes that is not in the record fits into the budget, and count it.

        One image fits always: those that wait for their turn may be what the budget is spent on. What was claimed for
        the same record before is given back.
        """
        with self._changed:
            self._fetched.discard(entry)
            self._count(entry, entry.record.size)
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._fetched or self.bytes + size <= budget)
            self._fetched.add(entry)
            self._count(entry, entry.record.size + size)

    def hold(self, entry: InFlight, size: int) -> None:
        """Count a record's image with `size` bytes, as it turned out to have."""
        with self._changed:
            self._count(entry, entry.record.size + size)
            self._changed.notify_all()

    def drop(self, entries: Collection[InFlight]) -> None:
        """Forget the last records of partitions, which nobody has begun."""
        with self._changed:
            for entry in reversed(list(entries)):
                partition = self._partitions.get(entry.record.topic_partition)
                if partition and partition.open and partition.open[-1] is entry:
                    partition.open.pop()
                    self._strike(entry)
            self._changed.notify_all()

    def answer(self, entry: InFlight, answer: Outgoing, on_acknowledged: Callable[[], object] = lambda: None) -> None:
        """Say what is to be produced for a record, whose image is held no longer, and what to do when that is safe."""
        with self._changed:
            entry.answer, entry.on_acknowledged = answer, on_acknowledged
            self._fetched.discard(entry)
            if entry.forgotten:
                self._strike(entry)
            else:
                self._count(entry, entry.record.size + _count_added(entry.record, answer))
            self._changed.notify_all()

    def wait_ready(
        self, timeout_s: float, max_records: int, max_bytes: int = sys.maxsize
    ) -> dict[TopicPartition, list[InFlight]]:
        """Return what may be produced now: of each partition the answered records before the first open one.

        One answer may be larger than `max_bytes`, alone. Nothing is taken away until `acknowledge`, so that a delivery
        that failed is simply asked for again.
        """
        with self._changed:
            if ready := self._ready(max_records, max_bytes):
                return ready
            self._changed.wait(timeout_s)
            return self._ready(max_records, max_bytes)

    def acknowledge(self, delivered: Mapping[TopicPartition, list[InFlight]]) -> None:
        """Note that the answers were acknowledged; those of partitions that went away meanwhile move no position."""
        with self._changed:
            for topic_partition, entries in delivered.items():
                partition = self._partitions.get(topic_partition)
                for entry in entries:
                    if partition is None or not partition.open or partition.open[0] is not entry:
                        break
                    partition.open.popleft()
                    offset = entry.record.offset + 1
                    partition.reach = OffsetRange(offset, max(offset, partition.reach.until if partition.reach else 0))
                    self._strike(entry)
            self._changed.notify_all()
        for entries in delivered.values():
            for entry in entries:
                entry.on_acknowledged()

    def reach(self, topic_partitions: Collection[TopicPartition]) -> dict[TopicPartition, OffsetRange]:
        """Return how far these partitions are; one without a record so far is nowhere."""
        with self._changed:
            return {
                topic_partition: partition.reach
                for topic_partition in topic_partitions
                if (partition := self._partitions.get(topic_partition)) and partition.reach is not None
            }

    def committed_reach(self, topic_partitions: Collection[TopicPartition]) -> dict[TopicPartition, OffsetRange]:
        """Return the same as `reach`, with what is committed in place of what is acknowledged."""
        with self._changed:
            return {
                topic_partition: OffsetRange(
                    partition.first if partition.committed is None else partition.committed, partition.reach.until
                )
                for topic_partition in topic_partitions
                if (partition := self._partitions.get(topic_partition)) and partition.reach is not None
            }

    def uncommitted(self) -> dict[TopicPartition, int]:
        """Return the offsets that have moved since they were committed."""
        with self._changed:
            return {
                topic_partition: partition.reach.offset
                for topic_partition, partition in self._partitions.items()
                if partition.reach is not None and partition.reach.offset != partition.committed
            }

    def committed(self, offsets: Mapping[TopicPartition, int]) -> None:
        """Note what was committed."""
        with self._changed:
            for topic_partition, offset in offsets.items():
                if partition := self._partitions.get(topic_partition):
                    partition.committed = offset

    def skip(self, offsets: Mapping[TopicPartition, int]) -> dict[TopicPartition, int]:
        """Note where reading is, of partitions with nothing in flight; return what of that is not committed."""
        moved = {}
        with self._changed:
            for topic_partition, offset in offsets.items():
                partition = self._partitions.get(topic_partition)
                if partition is None or partition.open:
                    continue
                if partition.reach is None:
                    partition.first = offset
                until = partition.reach.until if partition.reach else offset
                partition.reach = OffsetRange(offset, max(offset, until))
                partition.announced = max(offset, partition.announced)  # nothing is in hand
                if partition.committed != offset:
                    moved[topic_partition] = offset
        return moved

    def unannounced(self) -> dict[TopicPartition, OffsetRange]:
        """Return the partitions with records in hand that no note speaks of yet."""
        with self._changed:
            return {
                topic_partition: partition.reach
                for topic_partition, partition in self._partitions.items()
                if partition.reach is not None and partition.reach.until > partition.announced
            }

    def announced(self, untils: Mapping[TopicPartition, int]) -> None:
        """Note up to which offset a note speaks of records in hand, -1 for none."""
        with self._changed:
            for topic_partition, until in untils.items():
                if partition := self._partitions.get(topic_partition):
                    partition.announced = until

    def is_announced(self, entry: InFlight) -> bool:
        """Return whether a note speaks of this record."""
        with self._changed:
            partition = self._partitions.get(entry.record.topic_partition)
            return bool(partition and entry.record.offset < partition.announced)

    def wait_finished(self, entry: InFlight, timeout_s: float) -> bool:
        """Wait until a record is acknowledged or forgotten; return whether that came true."""
        with self._changed:
            return self._changed.wait_for(
                lambda: entry not in self._partitions.get(entry.record.topic_partition, _Partition()).open, timeout_s
            )

    def wait_fewer(self, images: int, timeout_s: float) -> None:
        """Wait until fewer than `images` are in flight."""
        with self._changed:
            self._changed.wait_for(lambda: self.images < images, timeout_s)

    def wait_empty(self, topic_partitions: Collection[TopicPartition], timeout_s: float) -> bool:
        """Wait until these partitions have nothing in flight; return whether that came true."""
        with self._changed:
            return self._changed.wait_for(
                lambda: (
                    not any(
                        self._partitions[topic_partition].open
                        for topic_partition in topic_partitions
                        if topic_partition in self._partitions
                    )
                ),
                timeout_s,
            )

    def oldest_timestamp_ms(self) -> int | None:
        """Return when the oldest unfinished record was written; one without a timestamp has no age."""
        with self._changed:
            written = (entry.record.timestamp_ms for each in self._partitions.values() for entry in each.open)
            return min((timestamp_ms for timestamp_ms in written if timestamp_ms > 0), default=None)

    def _count(self, entry: InFlight, size: int) -> None:
        self.bytes += size - self._held.get(entry, 0)
        self._held[entry] = size

    def _strike(self, entry: InFlight) -> None:
        self.bytes -= self._held.pop(entry, 0)

    def _ready(self, max_records: int, max_bytes: int) -> dict[TopicPartition, list[InFlight]]:
        ready: dict[TopicPartition, list[InFlight]] = {}
        records, size = 0, 0
        for topic_partition, partition in self._partitions.items():
            for entry in partition.open:
                if entry.answer is None:
                    break
                records, size = records + 1, size + entry.answer.size
                if records > max_records or (records > 1 and size > max_bytes):
                    return ready
                ready.setdefault(topic_partition, []).append(entry)
        return ready


def _count_added(record: Record, answer: Outgoing) -> int:
    """Return how many bytes an answer has that its record does not share with it."""
    pairs = ((answer.key, record.key), (answer.value, record.value))
    return answer.size - sum(len(ours) for ours, its in pairs if ours and ours is its)
