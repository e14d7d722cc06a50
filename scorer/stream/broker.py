"""The seam to brokers: what the service asks of one, and one that lives in memory.

The in-memory broker keeps a broker's promises (offsets, groups, notes, transactions seen as a whole) within one
process: `unlensed serve --replay` runs the real service on it, and so do tests that are not about delivery.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

Headers = tuple[tuple[str, bytes | None], ...]


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
