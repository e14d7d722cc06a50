"""Reads requests from Kafka as a member of a group (cooperative-sticky). Used by the poller's thread only."""

import threading
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from typing import Any

from scorer.errors import BrokerRefused, BrokerUnavailable
from scorer.observe.logs import get_logger
from scorer.stream.broker import OffsetAndMetadata, PartitionListener, Record, TopicPartition
from scorer.stream.kafka.client import (
    ConsumerGroupMetadata,
    KafkaClientFactory,
    KafkaTopicPartition,
    LogEndOffsets,
    MemberState,
    Rebalances,
    RebalanceSignal,
    errors,
    to_offsets,
)
from scorer.stream.kafka.membership import (
    drop_empty_fetch,
    is_fenced,
    keep_join_task,
    leave_on_close,
    track_resets,
)
from scorer.stream.kafka.records import to_record

COMMIT_S = 5
OUTAGE_S = 2  # an outage: no connection for this long; shorter gaps are reconnects

log = get_logger(__name__)


class KafkaSource:
    """Reads a topic as a member of a group. See `RecordSource`.

    Raises:
        BrokerUnavailable: no broker answers within 15 s.
        BrokerRefused: the broker refuses the connection.
    """

    def __init__(self, brokers: KafkaClientFactory, group: str, topic: str, *, stays_member: bool = False) -> None:
        self._brokers, self._group, self._topic = brokers, group, topic
        self._consumer, self._connections = brokers.open_consumer(group, joins=True)
        self._notes, _ = brokers.open_consumer(f"{group}.notes", joins=False, isolation="read_uncommitted")
        # While a transaction is open, the last stable offset lies before the log end.
        self._stable_ends, self._log_ends = LogEndOffsets(self._consumer), LogEndOffsets(self._notes)
        self._read: dict[TopicPartition, int] = {}  # offset after the last record returned
        self._blocked: dict[TopicPartition, tuple[int, float]] = {}  # the offset, and since when
        self._notes.assign([KafkaTopicPartition(topic, 0)])  # joins no group; any partition works
        self._stays_member = stays_member
        self._resets = track_resets(self._consumer)
        self._rebalances = Rebalances()
        self._listener: PartitionListener | None = None
        # Assigned partitions stay paused until their committed offsets are known and the listener is called.
        self._assigned: set[TopicPartition] = set()
        self._lock = threading.Lock()  # the result producer reads the membership
        self._owned: set[TopicPartition] = set()
        self._membership = ConsumerGroupMetadata(group_id=group)
        self._connected_s = time.monotonic()
        self._in_outage = False

    def require_topics(self, wanted: Collection[str]) -> None:
        """Check that topics exist.

        Raises:
            BrokerRefused: one does not exist, or this user may not see it.
            BrokerUnavailable: the broker does not answer.
        """
        try:
            missing = sorted(set(wanted) - self._consumer.topics())
        except errors.KafkaError as error:
            raise self._brokers.convert_error(error, "topics could not be listed") from error
        if missing:
            message = (
                f"Kafka at {self._brokers.bootstrap} has no topic {', '.join(missing)}, or this user cannot see it"
            )
            raise BrokerRefused(message)

    def subscribe(self, listener: PartitionListener) -> None:
        """See `RecordSource`."""
        self._listener = listener
        self._consumer.subscribe([self._topic], listener=self._rebalances)

    def poll(self, timeout_s: float, max_records: int) -> Sequence[Record]:
        """See `RecordSource`."""
        until = time.monotonic() + timeout_s
        self._start_assigned()
        polled: Mapping[KafkaTopicPartition, list[Any]] = {}
        drop_empty_fetch(self._consumer)
        try:
            polled = self._consumer.poll(timeout_ms=timeout_s * 1000, max_records=max_records)
        except errors.KafkaError as error:
            if not isinstance(error.__cause__, RebalanceSignal):
                self._wait_for_broker(error, until)
        keep_join_task(self._consumer)
        if is_fenced(self._consumer):
            message = f"another worker with this kafka.instance_id has joined the group {self._group}"
            raise BrokerRefused(message)
        with self._lock:
            self._membership = self._consumer.group_metadata()
        self._report_rebalances()
        self._report_expired(polled)
        self._log_outages()
        for partition, records in polled.items():
            self._read[TopicPartition(*partition)] = records[-1].offset + 1
        return [to_record(each) for records in polled.values() for each in records]

    def pause(self, topic_partitions: Collection[TopicPartition]) -> None:
        """See `RecordSource`."""
        self._consumer.pause(*self._ours(topic_partitions))

    def resume(self, topic_partitions: Collection[TopicPartition]) -> None:
        """See `RecordSource`."""
        self._consumer.resume(*self._ours(topic_partitions))

    def commit(self, offsets: Mapping[TopicPartition, int]) -> None:
        """See `RecordSource`; takes at most 5 s.

        Raises:
            BrokerUnavailable: not stored now.
            BrokerRefused: another worker has the same instance id, or this user may not write to the group.
            ValueError: a partition is not owned, so that its owner's position would be overwritten.
        """
        if others := offsets.keys() - self._owned:
            message = f"this member does not own {sorted(others)} and cannot commit them"
            raise ValueError(message)
        self._store(
            self._consumer, {topic_partition: OffsetAndMetadata(offset) for topic_partition, offset in offsets.items()}
        )

    def write_notes(self, notes: Mapping[TopicPartition, str]) -> None:
        """See `RecordSource`; takes at most 5 s.

        They are stored as commits of a second group, `<group>.notes`, which has no members and so never rebalances.

        Raises:
            BrokerUnavailable: not stored now.
            BrokerRefused: this user may not write to that group.
        """
        self._store(
            self._notes, {topic_partition: OffsetAndMetadata(0, note) for topic_partition, note in notes.items()}
        )

    def lag(self) -> Mapping[TopicPartition, int]:
        """See `RecordSource`; uses the broker's answers to the last call and to fetches."""
        lags = {}
        ours = self._ours(self._owned)
        self._log_ends.refresh(ours)
        for partition in ours:
            ends = (self._log_ends.known.get(TopicPartition(*partition)), self._consumer.highwater(partition))
            position = self._position(partition)
            if position is not None and any(end is not None for end in ends):
                lags[TopicPartition(*partition)] = max(0, max(end for end in ends if end is not None) - position)
        return lags

    def skipped(self) -> Mapping[TopicPartition, int]:
        """See `RecordSource`: transaction markers, and aborted, compacted or expired records."""
        positions = {TopicPartition(*partition): self._position(partition) for partition in self._ours(self._owned)}
        return {
            topic_partition: at
            for topic_partition, at in positions.items()
            if at is not None and at > self._read[topic_partition]
        }

    def blocked_s(self) -> Mapping[TopicPartition, float]:
        """See `RecordSource`; uses the broker's answers to the last calls of this method and of `lag`."""
        ours, now = self._ours(self._owned), time.monotonic()
        self._stable_ends.refresh(ours)
        blocked: dict[TopicPartition, tuple[int, float]] = {}
        for topic_partition in (TopicPartition(*partition) for partition in ours):
            stable = self._stable_ends.known.get(topic_partition)
            if stable is not None and stable < self._log_ends.known.get(topic_partition, 0):
                at, since = self._blocked.get(topic_partition, (stable, now))
                blocked[topic_partition] = (stable, since if at == stable else now)
        self._blocked = blocked
        return {
            topic_partition: now - blocked[topic_partition][1] if topic_partition in blocked else 0.0
            for topic_partition in self._owned
        }

    def _position(self, partition: KafkaTopicPartition) -> int | None:
        with suppress(errors.KafkaError):
            position: int | None = self._consumer.position(partition, timeout_ms=0)
            return position
        return None

    def membership(self, topic_partitions: Collection[TopicPartition]) -> ConsumerGroupMetadata:
        """Return the membership that proves to the broker that these partitions are owned; from any thread.

        Raises:
            BrokerUnavailable: they are not owned, or the group rebalances.
        """
        with self._lock:
            # With a generation below zero the broker takes the consumer for one without a group, and checks nothing.
            if self._owned.issuperset(topic_partitions) and self._membership.generation_id >= 0:
                return self._membership
        message = f"the group {self._group} reassigns {sorted(topic_partitions)}; nothing was written"
        raise BrokerUnavailable(message)

    def close(self, timeout_s: float) -> None:
        """See `RecordSource`."""
        until = time.monotonic() + timeout_s
        with suppress(BrokerRefused):
            while self._consumer.group_metadata().state == MemberState.REBALANCING and time.monotonic() < until:
                self.poll(0.05, 1)  # commits fail during a rebalance; records polled here are not committed
        ours, lost = frozenset(self._owned), is_fenced(self._consumer) or self._membership.generation_id < 0
        if self._listener and ours:
            (self._listener.on_lost if lost else self._listener.on_revoked)(ours)
        with self._lock:
            self._owned.clear()
        self._rebalances.closing = True
        if not self._stays_member and not lost:
            leave_on_close(self._consumer)
        with suppress(errors.KafkaError):  # otherwise the group removes this member after the session timeout
            self._consumer.close(autocommit=False, timeout_ms=timeout_s * 1000)
            self._notes.close(autocommit=False, timeout_ms=timeout_s * 1000)

    def _store(self, consumer: Any, positions: Mapping[TopicPartition, OffsetAndMetadata]) -> None:  # noqa: ANN401 - the client ships no types
        try:
            consumer.commit(to_offsets(positions), timeout_ms=COMMIT_S * 1000)
        except errors.KafkaError as error:
            raise self._brokers.convert_error(error, "positions were not committed") from error

    def _ours(self, topic_partitions: Collection[TopicPartition]) -> list[KafkaTopicPartition]:
        ours = self._owned.intersection(topic_partitions)  # revoked partitions are missing in the client
        return [each for each in self._consumer.assignment() if each in ours]

    def _report_rebalances(self) -> None:
        """Call the listener for the rebalances that the client's thread noted."""
        noted, self._rebalances.noted = self._rebalances.noted, []
        for what, topic_partitions in noted:
            if what == "assigned":
                self._assigned |= topic_partitions
                self._consumer.pause(*(KafkaTopicPartition(*topic_partition) for topic_partition in topic_partitions))
                continue
            self._assigned -= topic_partitions
            removed = self._owned & topic_partitions
            if what == "revoked" and removed and self._listener:
                self._listener.on_revoked(removed)
            with self._lock:
                self._owned -= removed
            if what == "lost" and removed and self._listener:
                self._listener.on_lost(removed)
        self._start_assigned()

    def _start_assigned(self) -> None:
        """Start assigned partitions as soon as their committed offsets are known."""
        if not self._assigned or not self._listener:
            return
        assigned = {
            topic_partition: KafkaTopicPartition(*topic_partition) for topic_partition in sorted(self._assigned)
        }
        offsets: dict[TopicPartition, int | None] = {}
        notes: dict[TopicPartition, str] = {}
        try:
            for topic_partition, partition in assigned.items():
                offsets[topic_partition] = self._consumer.committed(partition, timeout_ms=COMMIT_S * 1000)
                stored = self._notes.committed(partition, metadata=True, timeout_ms=COMMIT_S * 1000)
                notes[topic_partition] = (stored.metadata or "") if stored else ""
        except errors.KafkaError as error:
            self._wait_for_broker(error, time.monotonic())
            return
        for topic_partition, offset in offsets.items():
            self._read[topic_partition] = offset or 0
            if offset is not None:
                self._consumer.seek(assigned[topic_partition], offset)
        self._consumer.resume(*assigned.values())
        with self._lock:
            self._owned |= self._assigned
        self._assigned = set()
        self._listener.on_assigned(notes)

    def _report_expired(self, polled: Mapping[KafkaTopicPartition, list[Any]]) -> None:
        """Report deleted records to the listener as soon as the next position is known."""
        for topic_partition, first in list(self._resets.items()):
            partition = KafkaTopicPartition(*topic_partition)
            records = polled.get(partition)
            until = records[0].offset if records else None
            if until is None and self._ours({topic_partition}):
                with suppress(errors.KafkaError):
                    until = self._consumer.position(partition, timeout_ms=0)
            if until is None and topic_partition in self._owned:
                continue
            del self._resets[topic_partition]
            if until is not None and until != first and self._listener:
                self._listener.on_expired(topic_partition, first, until)

    def _wait_for_broker(self, error: errors.KafkaError, until: float) -> None:
        """Wait until `until` in an outage; raise if the error is a refusal."""
        explained = self._brokers.convert_error(error, "reading failed")
        if isinstance(explained, BrokerRefused):
            raise explained from error
        log.warning("a read from the broker failed; retrying", error=str(error))
        time.sleep(max(0.0, until - time.monotonic()))

    def _log_outages(self) -> None:
        now = time.monotonic()
        if self._connections.any_open():
            if self._in_outage:
                log.info("a broker answers again", seconds=round(now - self._connected_s, 1))
            self._connected_s, self._in_outage = now, False
        elif not self._in_outage and now - self._connected_s > OUTAGE_S:
            self._in_outage = True
            log.warning("no broker answers; reading continues when one does", brokers=self._brokers.bootstrap)
