"""A broker in memory with the guarantees of a real one: offsets, groups, notes, atomic transactions.

`unlensed serve --replay` runs the service on it; tests that are not about delivery do the same.
"""

import threading
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from scorer.stream.broker import Outgoing, PartitionListener, Record, TopicPartition


@dataclass(slots=True)
class MemoryBroker:
    """Topics of one partition each, committed offsets and notes, in this process."""

    topics: dict[str, list[Record]] = field(default_factory=lambda: defaultdict(list))
    committed: dict[TopicPartition, int] = field(default_factory=dict)
    notes: dict[TopicPartition, str] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def append(self, records: Iterable[Outgoing], timestamp_ms: int = 0) -> None:
        """Add records to the ends of their topics."""
        with self.lock:
            for record in records:
                log = self.topics[record.topic]
                log.append(Record(record.topic, 0, len(log), timestamp_ms, record.key, record.value, record.headers))


class MemorySource:
    """The only member of its group, reading `topic` of a `MemoryBroker`."""

    def __init__(self, broker: MemoryBroker, topic: str) -> None:
        self._broker, self._topic_partition = broker, TopicPartition(topic, 0)
        self._paused = False
        self._owned = False
        self._next = 0
        self._listener: PartitionListener | None = None

    def subscribe(self, listener: PartitionListener) -> None:
        """See `RecordSource`."""
        self._listener = listener

    def poll(self, timeout_s: float, max_records: int) -> Sequence[Record]:
        """See `RecordSource`; waits for `timeout_s` when there is no record."""
        if not self._owned and self._listener:
            self._next, self._owned = self._broker.committed.get(self._topic_partition, 0), True
            self._listener.on_assigned({self._topic_partition: self._broker.notes.get(self._topic_partition, "")})
        with self._broker.lock:
            log = self._broker.topics[self._topic_partition.topic]
            records = [] if self._paused else log[self._next : self._next + max_records]
        if not records:
            threading.Event().wait(timeout_s)
        self._next += len(records)
        return records

    def pause(self, topic_partitions: Collection[TopicPartition]) -> None:
        """See `RecordSource`."""
        self._paused = self._paused or self._topic_partition in topic_partitions

    def resume(self, topic_partitions: Collection[TopicPartition]) -> None:
        """See `RecordSource`."""
        self._paused = self._paused and self._topic_partition not in topic_partitions

    def commit(self, offsets: Mapping[TopicPartition, int]) -> None:
        """See `RecordSource`."""
        with self._broker.lock:
            self._broker.committed.update(offsets)

    def write_notes(self, notes: Mapping[TopicPartition, str]) -> None:
        """See `RecordSource`."""
        with self._broker.lock:
            self._broker.notes.update(notes)

    def lag(self) -> Mapping[TopicPartition, int]:
        """See `RecordSource`."""
        return {self._topic_partition: len(self._broker.topics[self._topic_partition.topic]) - self._next}

    def skipped(self) -> Mapping[TopicPartition, int]:
        """See `RecordSource`; every offset has a record."""
        return {}

    def blocked_s(self) -> Mapping[TopicPartition, float]:
        """See `RecordSource`; transactions are atomic here."""
        return {}

    def close(self, timeout_s: float) -> None:  # noqa: ARG002 - nothing here can wait
        """See `RecordSource`."""
        if self._owned and self._listener:
            self._listener.on_revoked({self._topic_partition})
        self._owned = False


class MemorySink:
    """Writes to a `MemoryBroker`."""

    def __init__(self, broker: MemoryBroker) -> None:
        self._broker = broker

    def deliver(self, records: Sequence[Outgoing]) -> None:
        """See `RecordSink`."""
        self._broker.append(records)

    def deliver_once(self, records: Sequence[Outgoing], offsets: Mapping[TopicPartition, int]) -> None:
        """See `RecordSink`."""
        self.deliver(records)
        with self._broker.lock:
            self._broker.committed.update(offsets)

    def close(self, timeout_s: float) -> None:
        """See `RecordSink`."""
