"""The ledger of records in flight: it alone decides which offsets may be committed.

Answers of a partition are produced in the order of its records. An offset may be committed only when every record
before it is acknowledged. When a partition is revoked, its unfinished records are removed.

The ledger also counts the bytes of records in flight: the record, its image until the record is answered, and the
answer until it is acknowledged. A record whose partition was revoked during processing counts until it is answered.
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
        answer: the record to produce for it.
        on_acknowledged: called once, when the broker has acknowledged the answer.
        forgotten: its partition was revoked during processing.
    """

    record: Record
    answer: Outgoing | None = None
    on_acknowledged: Callable[[], object] = lambda: None
    received_s: float = field(default_factory=time.monotonic)
    forgotten: bool = False


class OffsetRange(NamedTuple):
    """Records in flight of a partition: all before `offset` are acknowledged, none from `until` on were received."""

    offset: int
    until: int


@dataclass(slots=True)
class _Partition:
    first: int = 0  # offset of the first record that was added
    offset_range: OffsetRange | None = None
    committed: int | None = None
    noted_until: int = -1
    open: deque[InFlight] = field(default_factory=deque)


class Ledger:
    """Thread-safe. The poller opens, adds and closes; pipeline threads answer; the result producer acknowledges."""

    def __init__(self) -> None:
        self._partitions: dict[TopicPartition, _Partition] = {}
        self._changed = threading.Condition()
        self._held_bytes: dict[InFlight, int] = {}
        self._fetched: set[InFlight] = set()  # records whose image is fetched from a store
        self.bytes = 0

    @property
    def images(self) -> int:
        """The number of records for which bytes are counted."""
        return len(self._held_bytes)

    def open(self, topic_partition: TopicPartition) -> None:
        """Add a partition that was assigned."""
        with self._changed:
            self._partitions[topic_partition] = _Partition()

    def close(self, topic_partitions: Collection[TopicPartition]) -> None:
        """Remove partitions; answers to their records are discarded."""
        with self._changed:
            for topic_partition in topic_partitions:
                for entry in self._partitions.pop(topic_partition, _Partition()).open:
                    entry.forgotten = True
                    if entry.answer:
                        self._release(entry)
            self._changed.notify_all()

    def add(self, record: Record) -> InFlight:
        """Add a record that was polled."""
        entry = InFlight(record)
        with self._changed:
            partition = self._partitions[record.topic_partition]
            partition.open.append(entry)
            if partition.offset_range is None:
                partition.first = record.offset
            partition.offset_range = OffsetRange(
                partition.offset_range.offset if partition.offset_range else record.offset, record.offset + 1
            )
            # The size of the decoded base64 in the record; an image in a store is counted by `reserve_image`.
            self._count(entry, record.size + len(record.value or b"") * 3 // 4)
        return entry

    def reserve_image(self, entry: InFlight, size: int, budget: int) -> None:
        """Wait until an image of `size` bytes from a store fits into the budget, and count it.

        One image always fits, since the waiting records may use the whole budget. An earlier reservation of the same
        record is released.
        """
        with self._changed:
            self._fetched.discard(entry)
            self._count(entry, entry.record.size)
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._fetched or self.bytes + size <= budget)
            self._fetched.add(entry)
            self._count(entry, entry.record.size + size)

    def set_image_bytes(self, entry: InFlight, size: int) -> None:
        """Set the size of a record's image."""
        with self._changed:
            self._count(entry, entry.record.size + size)
            self._changed.notify_all()

    def remove_unstarted(self, entries: Collection[InFlight]) -> None:
        """Remove the last records of partitions, which were not started."""
        with self._changed:
            for entry in reversed(list(entries)):
                partition = self._partitions.get(entry.record.topic_partition)
                if partition and partition.open and partition.open[-1] is entry:
                    partition.open.pop()
                    self._release(entry)
            self._changed.notify_all()

    def answer(self, entry: InFlight, answer: Outgoing, on_acknowledged: Callable[[], object] = lambda: None) -> None:
        """Set the answer of a record and the callback for its acknowledgement; the image is no longer counted."""
        with self._changed:
            entry.answer, entry.on_acknowledged = answer, on_acknowledged
            self._fetched.discard(entry)
            if entry.forgotten:
                self._release(entry)
            else:
                self._count(entry, entry.record.size + _count_added(entry.record, answer))
            self._changed.notify_all()

    def wait_ready(
        self, timeout_s: float, max_records: int, max_bytes: int = sys.maxsize
    ) -> dict[TopicPartition, list[InFlight]]:
        """Return the records whose answers may be produced now: of each partition those before the first unanswered.

        A single answer may be larger than `max_bytes`. Records are removed only by `acknowledge`, so that a failed
        delivery is returned again.
        """
        with self._changed:
            if ready := self._ready(max_records, max_bytes):
                return ready
            self._changed.wait(timeout_s)
            return self._ready(max_records, max_bytes)

    def acknowledge(self, delivered: Mapping[TopicPartition, list[InFlight]]) -> None:
        """Note that answers are acknowledged; those of partitions that were revoked meanwhile move no position."""
        with self._changed:
            for topic_partition, entries in delivered.items():
                partition = self._partitions.get(topic_partition)
                for entry in entries:
                    if partition is None or not partition.open or partition.open[0] is not entry:
                        break
                    partition.open.popleft()
                    offset = entry.record.offset + 1
                    partition.offset_range = OffsetRange(
                        offset, max(offset, partition.offset_range.until if partition.offset_range else 0)
                    )
                    self._release(entry)
            self._changed.notify_all()
        for entries in delivered.values():
            for entry in entries:
                entry.on_acknowledged()

    def offset_ranges(self, topic_partitions: Collection[TopicPartition]) -> dict[TopicPartition, OffsetRange]:
        """Return the records in flight of these partitions, without partitions that have had no record."""
        with self._changed:
            return {
                topic_partition: partition.offset_range
                for topic_partition in topic_partitions
                if (partition := self._partitions.get(topic_partition)) and partition.offset_range is not None
            }

    def committed_ranges(self, topic_partitions: Collection[TopicPartition]) -> dict[TopicPartition, OffsetRange]:
        """Return the same as `offset_ranges`, from the committed offset instead of the acknowledged one."""
        with self._changed:
            return {
                topic_partition: OffsetRange(
                    partition.first if partition.committed is None else partition.committed,
                    partition.offset_range.until,
                )
                for topic_partition in topic_partitions
                if (partition := self._partitions.get(topic_partition)) and partition.offset_range is not None
            }

    def uncommitted(self) -> dict[TopicPartition, int]:
        """Return the offsets that have changed since the last commit."""
        with self._changed:
            return {
                topic_partition: partition.offset_range.offset
                for topic_partition, partition in self._partitions.items()
                if partition.offset_range is not None and partition.offset_range.offset != partition.committed
            }

    def committed(self, offsets: Mapping[TopicPartition, int]) -> None:
        """Note the committed offsets."""
        with self._changed:
            for topic_partition, offset in offsets.items():
                if partition := self._partitions.get(topic_partition):
                    partition.committed = offset

    def skip(self, offsets: Mapping[TopicPartition, int]) -> dict[TopicPartition, int]:
        """Move partitions without records in flight to the reader's offsets; return the uncommitted ones."""
        moved = {}
        with self._changed:
            for topic_partition, offset in offsets.items():
                partition = self._partitions.get(topic_partition)
                if partition is None or partition.open:
                    continue
                if partition.offset_range is None:
                    partition.first = offset
                until = partition.offset_range.until if partition.offset_range else offset
                partition.offset_range = OffsetRange(offset, max(offset, until))
                partition.noted_until = max(offset, partition.noted_until)  # nothing is in flight
                if partition.committed != offset:
                    moved[topic_partition] = offset
        return moved

    def without_note(self) -> dict[TopicPartition, OffsetRange]:
        """Return the partitions with records that no crash note contains yet."""
        with self._changed:
            return {
                topic_partition: partition.offset_range
                for topic_partition, partition in self._partitions.items()
                if partition.offset_range is not None and partition.offset_range.until > partition.noted_until
            }

    def mark_noted(self, untils: Mapping[TopicPartition, int]) -> None:
        """Note the end of the range in each partition's crash note, -1 for none."""
        with self._changed:
            for topic_partition, until in untils.items():
                if partition := self._partitions.get(topic_partition):
                    partition.noted_until = until

    def has_note(self, entry: InFlight) -> bool:
        """Return whether a crash note contains this record."""
        with self._changed:
            partition = self._partitions.get(entry.record.topic_partition)
            return bool(partition and entry.record.offset < partition.noted_until)

    def wait_finished(self, entry: InFlight, timeout_s: float) -> bool:
        """Wait until a record is acknowledged or removed; return whether it is."""
        with self._changed:
            return self._changed.wait_for(
                lambda: entry not in self._partitions.get(entry.record.topic_partition, _Partition()).open, timeout_s
            )

    def wait_fewer(self, images: int, timeout_s: float) -> None:
        """Wait until fewer than `images` are in flight."""
        with self._changed:
            self._changed.wait_for(lambda: self.images < images, timeout_s)

    def wait_empty(self, topic_partitions: Collection[TopicPartition], timeout_s: float) -> bool:
        """Wait until these partitions have nothing in flight; return whether they have nothing."""
        with self._changed:
            return self._changed.wait_for(lambda: not self.find_unfinished(topic_partitions), timeout_s)

    def find_unfinished(self, topic_partitions: Collection[TopicPartition]) -> set[TopicPartition]:
        """Return those of the partitions that have records in flight."""
        with self._changed:
            return {each for each in topic_partitions if each in self._partitions and self._partitions[each].open}

    def oldest_timestamp_ms(self) -> int | None:
        """Return the broker timestamp of the oldest unfinished record, None where no record has one."""
        with self._changed:
            written = (entry.record.timestamp_ms for each in self._partitions.values() for entry in each.open)
            return min((timestamp_ms for timestamp_ms in written if timestamp_ms > 0), default=None)

    def _count(self, entry: InFlight, size: int) -> None:
        self.bytes += size - self._held_bytes.get(entry, 0)
        self._held_bytes[entry] = size

    def _release(self, entry: InFlight) -> None:
        self.bytes -= self._held_bytes.pop(entry, 0)

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
    """Return the bytes of an answer that it does not share with its record."""
    pairs = ((answer.key, record.key), (answer.value, record.value))
    return answer.size - sum(len(ours) for ours, its in pairs if ours and ours is its)
