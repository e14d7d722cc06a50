"""The seam to brokers: what the service asks of one, and one that lives in memory.

The in-memory broker keeps a broker's promises (offsets, groups, notes, transactions seen as a whole) within one
process: `unlensed serve --replay` runs the real service on it, and so do tests that are not about delivery.
"""

import threading
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

Headers = tuple[tuple[str, bytes | None], ...]


class BrokerUnavailable(Exception):
    """The broker does not answer or asks to wait; the same call may succeed later. Nothing is lost by trying again."""


class BrokerRefused(Exception):
    """The broker will never do this: no such topic, no right to it, or this worker was fenced by its successor."""


class RecordsTooLarge(Exception):
    """The broker takes these records in no form; of a plain delivery all others are acknowledged.

    Attributes:
        records: those that it refused.
    """

    def __init__(self, records: Sequence["Outgoing"], why: str) -> None:
        super().__init__(why)
        self.records = records


class TopicPartition(NamedTuple):
    """A partition of a topic."""

    topic: str
    partition: int


class OffsetAndMetadata(NamedTuple):
    """The next offset that a group reads of a partition, and the `note` (at most 4,000 bytes) it keeps beside it."""

    offset: int
    note: str = ""


@dataclass(frozen=True, slots=True)
class Record:
    """One record as the broker keeps it; `value` is None for a tombstone."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: Headers = ()

    @property
    def topic_partition(self) -> TopicPartition:
        """The partition it lies in."""
        return TopicPartition(self.topic, self.partition)

    @property
    def size(self) -> int:
        """Bytes of key, value and headers."""
        return _size(self.key, self.value, self.headers)


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A record to produce; records of one key keep their order."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Headers = ()

    @property
    def size(self) -> int:
        """Bytes of key, value and headers."""
        return _size(self.key, self.value, self.headers)


def _size(key: bytes | None, value: bytes | None, headers: Headers) -> int:
    of_headers = sum(len(name) + len(content or b"") for name, content in headers)
    return len(key or b"") + len(value or b"") + of_headers


class PartitionListener(Protocol):
    """Told of partitions that come and go: from within `RecordSource.poll` or `close`, on the caller's thread."""

    def on_assigned(self, notes: Mapping[TopicPartition, str]) -> None:
        """Take these on, with what `RecordSource.write_notes` last kept for each, or nothing.

        No record of them was returned before this call; the first one will be the one after what was committed.
        """

    def on_revoked(self, topic_partitions: Collection[TopicPartition]) -> None:
        """Finish or forget these; `RecordSource.commit` still works for them during this call."""

    def on_lost(self, topic_partitions: Collection[TopicPartition]) -> None:
        """Forget these: somebody else owns them already, so that nothing of them may be committed."""

    def on_expired(self, topic_partition: TopicPartition, first: int, until: int) -> None:
        """Take note that the records from `first` on are gone and reading goes on at `until`, which may lie before."""


class RecordSource(Protocol):
    """Reads records for a group. Every method is called from one thread, the poller's."""

    def subscribe(self, listener: PartitionListener) -> None:
        """Join the group; call once, before `poll`."""

    def poll(self, timeout_s: float, max_records: int) -> Sequence[Record]:
        """Return records of partitions that are not paused, and keep the membership alive.

        Outages of the broker show as no records, never as an exception.

        Raises:
            BrokerRefused: waiting will not help.
        """

    def pause(self, topic_partitions: Collection[TopicPartition]) -> None:
        """Return nothing of these until they are resumed; what is not ours is ignored."""

    def resume(self, topic_partitions: Collection[TopicPartition]) -> None:
        """End a pause; what is not ours is ignored."""

    def commit(self, offsets: Mapping[TopicPartition, int]) -> None:
        """Store the next offset that the group reads of each; returns when they are stored.

        Raises:
            BrokerUnavailable: not stored now (an outage, a rebalance under way).
        """

    def write_notes(self, notes: Mapping[TopicPartition, str]) -> None:
        """Keep a note of at most 4,000 bytes for each; works while the group rebalances, too.

        Raises:
            BrokerUnavailable: not kept now (an outage).
        """

    def lag(self) -> Mapping[TopicPartition, int]:
        """Return how many offsets lie after the last one read, by partition, paused or not, as far as is known."""

    def skipped(self) -> Mapping[TopicPartition, int]:
        """Return where reading is, of partitions where it has passed offsets without a record since the last one."""

    def blocked_s(self) -> Mapping[TopicPartition, float]:
        """Return for how many seconds an open transaction has kept what follows from being read, by partition."""

    def close(self, timeout_s: float) -> None:
        """Leave the group; calls `on_revoked` for what is still ours."""


class RecordSink(Protocol):
    """Writes records. Every method is called from one thread, the deliverer's."""

    def deliver(self, records: Sequence[Outgoing]) -> None:
        """Produce and return when all are acknowledged.

        Raises:
            BrokerUnavailable: not all are acknowledged; delivering them again may write some twice.
            BrokerRefused: the broker will never do this.
            RecordsTooLarge: some will never be taken; the others are acknowledged.
        """

    def deliver_once(self, records: Sequence[Outgoing], offsets: Mapping[TopicPartition, int]) -> None:
        """Produce, and store the next offsets of the source's group, in one transaction: all of it or nothing.

        Raises:
            BrokerUnavailable: nothing of it happened.
            BrokerRefused: this worker was fenced; nothing of it happened.
            RecordsTooLarge: some will never be taken; nothing of it happened.
        """

    def close(self, timeout_s: float) -> None:
        """Give back what is held; what was not delivered stays undelivered."""


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
        """See `RecordSource`; waits out `timeout_s` when there is nothing."""
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
        """See `RecordSource`; a transaction is seen as a whole."""
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
