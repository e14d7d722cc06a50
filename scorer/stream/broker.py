"""The interface between the service and a broker: records, sources and sinks.

`scorer.stream.kafka` implements it for Kafka, `scorer.stream.memory_broker` in memory.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

Headers = tuple[tuple[str, bytes | None], ...]


class RecordsTooLarge(Exception):
    """The broker refuses these records for their size; outside a transaction all others are acknowledged.

    Attributes:
        records: the refused records.
    """

    def __init__(self, records: Sequence["Outgoing"], why: str) -> None:
        super().__init__(why)
        self.records = records


class TopicPartition(NamedTuple):
    """A partition of a topic."""

    topic: str
    partition: int


class OffsetAndMetadata(NamedTuple):
    """The next offset that a group reads of a partition, and the `note` (at most 4,000 bytes) stored with it."""

    offset: int
    note: str = ""


@dataclass(frozen=True, slots=True)
class Record:
    """One record as the broker stores it; `value` is None for a tombstone."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: Headers = ()

    @property
    def topic_partition(self) -> TopicPartition:
        """The partition that contains it."""
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
    """Receives assignments and revocations within `RecordSource.poll` or `close`, on the caller's thread."""

    def on_assigned(self, notes: Mapping[TopicPartition, str]) -> None:
        """Start these partitions; each has the last note of `RecordSource.write_notes`, or an empty one.

        No record of them was returned before this call. The first record is the one at the committed offset.
        """

    def on_revoked(self, topic_partitions: Collection[TopicPartition]) -> None:
        """Finish or discard these; `RecordSource.commit` still works for them during this call."""

    def on_lost(self, topic_partitions: Collection[TopicPartition]) -> None:
        """Discard these: another member owns them already, so that nothing of them may be committed."""

    def on_expired(self, topic_partition: TopicPartition, first: int, until: int) -> None:
        """Note that the records from `first` on were deleted and reading continues at `until`, which may lie before."""


class RecordSource(Protocol):
    """Reads records for a group. Every method is called from one thread, the poller's."""

    def subscribe(self, listener: PartitionListener) -> None:
        """Join the group; call once, before `poll`."""

    def poll(self, timeout_s: float, max_records: int) -> Sequence[Record]:
        """Return records of partitions that are not paused, and keep the membership alive.

        During an outage of the broker it returns no records, and raises nothing.

        Raises:
            BrokerRefused: a retry will not help.
        """

    def pause(self, topic_partitions: Collection[TopicPartition]) -> None:
        """Return no records of these until they are resumed; ignores partitions that this member does not own."""

    def resume(self, topic_partitions: Collection[TopicPartition]) -> None:
        """End a pause; ignores partitions that this member does not own."""

    def commit(self, offsets: Mapping[TopicPartition, int]) -> None:
        """Store the next offset that the group reads of each; returns when they are stored.

        Raises:
            BrokerUnavailable: not stored now (an outage, a rebalance under way).
        """

    def write_notes(self, notes: Mapping[TopicPartition, str]) -> None:
        """Store a note of at most 4,000 bytes for each; also works while the group rebalances.

        Raises:
            BrokerUnavailable: not stored now (an outage).
        """

    def lag(self) -> Mapping[TopicPartition, int]:
        """Return the number of offsets after the last one read, by partition, paused or not, where it is known."""

    def skipped(self) -> Mapping[TopicPartition, int]:
        """Return the positions of partitions where reading has passed offsets without a record since the last one."""

    def blocked_s(self) -> Mapping[TopicPartition, float]:
        """Return for how many seconds an open transaction has blocked reading, by partition."""

    def close(self, timeout_s: float) -> None:
        """Leave the group; calls `on_revoked` for the partitions that it still owns."""


class RecordSink(Protocol):
    """Writes records. Every method is called from one thread, the result producer's."""

    def deliver(self, records: Sequence[Outgoing]) -> None:
        """Produce and return when all are acknowledged.

        Raises:
            BrokerUnavailable: not all are acknowledged; delivering them again may write some twice.
            BrokerRefused: the broker refuses, and a retry will not help.
            RecordsTooLarge: some are too large; the others are acknowledged.
        """

    def deliver_once(self, records: Sequence[Outgoing], offsets: Mapping[TopicPartition, int]) -> None:
        """Produce, and store the next offsets of the source's group, in one transaction.

        Raises:
            BrokerUnavailable: nothing was written.
            BrokerRefused: this worker was fenced; nothing was written.
            RecordsTooLarge: some are too large; nothing was written.
        """

    def close(self, timeout_s: float) -> None:
        """Close the connections; undelivered records are discarded."""
