"""Reads requests from Kafka for a group, cooperative-sticky. The poller's thread owns it."""

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
    LogEnds,
    MemberState,
    Rebalances,
    RebalanceSignal,
    errors,
    forget_drained,
    give_up_membership,
    is_replaced,
    keep_join,
    note_resets,
    to_offsets,
)
from scorer.stream.kafka.records import to_record

COMMIT_S = 5
SILENCE_S = 2  # no connection for this long is an outage; shorter is a reconnect

log = get_logger(__name__)


class KafkaSource:
    """Reads a topic as a member of a group. See `RecordSource`.

    Raises:
        BrokerUnavailable: no broker answers within 15 s.
        BrokerRefused: they will not have us.
    """

    def __init__(self, brokers: KafkaClientFactory, group: str, topic: str, *, stays_member: bool = False) -> None:
        self._brokers, self._group, self._topic = brokers, group, topic
        self._consumer, self._connections = brokers.open_consumer(group, joins=True)
        self._notes, _ = brokers.open_consumer(f"{group}.notes", joins=False, isolation="read_uncommitted")
        # Where a transaction is open, the end of what may be read lies before the log's.
        self._stable_ends, self._log_ends = LogEnds(self._consumer), LogEnds(self._notes)
        self._read: dict[TopicPartition, int] = {}  # behind the last record
        self._blocked: dict[TopicPartition, tuple[int, float]] = {}  # at which offset, since when
        self._notes.assign([KafkaTopicPartition(topic, 0)])  # a member of no group, whatever the partition
        self._stays_member = stays_member
        self._left = note_resets(self._consumer)
        self._rebalances = Rebalances()
        self._listener: PartitionListener | None = None
        self._arriving: set[TopicPartition] = (
            set()
        )  # assigned, and held paused until the listener knows their positions
        self._lock = threading.Lock()  # the deliverer asks for the membership
        self._owned: set[TopicPartition] = set()
        self._membership = ConsumerGroupMetadata(group_id=group)
        self._answered_s = time.monotonic()
        self._silent = False

    def require_topics(self, wanted: Collection[str]) -> None:
        """Check that topics are there.

        Raises:
            BrokerRefused: one is not, or this user may not see it.
            BrokerUnavailable: the broker went away.
        """
        try:
            missing = sorted(set(wanted) - self._consumer.topics())
        except errors.KafkaError as error:
            raise self._brokers.explain(error, "topics could not be listed") from error
        if missing:
            message = f"Kafka at {self._brokers.bootstrap} has no topic {', '.join(missing)}, or hides it from us"
            raise BrokerRefused(message)

    def subscribe(self, listener: PartitionListener) -> None:
        """See `RecordSource`."""
        self._listener = listener
        self._consumer.subscribe([self._topic], listener=self._rebalances)

    def poll(self, timeout_s: float, max_records: int) -> Sequence[Record]:
        """See `RecordSource`."""
        until = time.monotonic() + timeout_s
        self._announce()
        polled: Mapping[KafkaTopicPartition, list[Any]] = {}
        forget_drained(self._consumer)
        try:
            polled = self._consumer.poll(timeout_ms=timeout_s * 1000, max_records=max_records)
        except errors.KafkaError as error:
            if not isinstance(error.__cause__, RebalanceSignal):
                self._wait_out(error, until)
        keep_join(self._consumer)
        if is_replaced(self._consumer):
            message = f"another worker has joined the group {self._group} with our instance id, and replaced this one"
            raise BrokerRefused(message)
        with self._lock:
            self._membership = self._consumer.group_metadata()
        self._hand_over()
        self._tell_expired(polled)
        self._notice_silence()
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
            BrokerRefused: another worker has our instance id, or we have no right to the group.
            ValueError: a partition is not ours, so that its owner's position would be overwritten.
        """
        if strangers := offsets.keys() - self._owned:
            message = f"positions of {sorted(strangers)} are not ours to commit"
            raise ValueError(message)
        self._store(
            self._consumer, {topic_partition: OffsetAndMetadata(offset) for topic_partition, offset in offsets.items()}
        )

    def write_notes(self, notes: Mapping[TopicPartition, str]) -> None:
        """See `RecordSource`; takes at most 5 s.

        They are kept as commits of a second group, `<group>.notes`, that has no members and so never rebalances.

        Raises:
            BrokerUnavailable: not kept now.
            BrokerRefused: we have no right to that group.
        """
        self._store(
            self._notes, {topic_partition: OffsetAndMetadata(0, note) for topic_partition, note in notes.items()}
        )

    def lag(self) -> Mapping[TopicPartition, int]:
        """See `RecordSource`; as the broker answered to the last call, and to reads."""
        lags = {}
        ours = self._ours(self._owned)
        self._log_ends.ask(ours)
        for partition in ours:
            ends = (self._log_ends.known.get(TopicPartition(*partition)), self._consumer.highwater(partition))
            position = self._position(partition)
            if position is not None and any(end is not None for end in ends):
                lags[TopicPartition(*partition)] = max(0, max(end for end in ends if end is not None) - position)
        return lags

    def skipped(self) -> Mapping[TopicPartition, int]:
        """See `RecordSource`: the ends of transactions, and what was aborted, compacted or has expired."""
        positions = {TopicPartition(*partition): self._position(partition) for partition in self._ours(self._owned)}
        return {
            topic_partition: at
            for topic_partition, at in positions.items()
            if at is not None and at > self._read[topic_partition]
        }

    def blocked_s(self) -> Mapping[TopicPartition, float]:
        """See `RecordSource`; as the broker answered to the last calls of this and of `lag`."""
        ours, now = self._ours(self._owned), time.monotonic()
        self._stable_ends.ask(ours)
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
        """Return what proves to the broker that these partitions are ours now; from any thread.

        Raises:
            BrokerUnavailable: they are not, or we are between two generations of the group.
        """
        with self._lock:
            # A generation below zero stands for a consumer without a group: the broker would check nothing.
            if self._owned.issuperset(topic_partitions) and self._membership.generation_id >= 0:
                return self._membership
        message = f"the group {self._group} is moving {sorted(topic_partitions)}; nothing was written"
        raise BrokerUnavailable(message)

    def close(self, timeout_s: float) -> None:
        """See `RecordSource`."""
        until = time.monotonic() + timeout_s
        with suppress(BrokerRefused):
            while self._consumer.group_metadata().state == MemberState.REBALANCING and time.monotonic() < until:
                self.poll(0.05, 1)  # nothing can be committed before the group is formed; what comes is not committed
        ours, lost = frozenset(self._owned), is_replaced(self._consumer) or self._membership.generation_id < 0
        if self._listener and ours:
            (self._listener.on_lost if lost else self._listener.on_revoked)(ours)
        with self._lock:
            self._owned.clear()
        self._rebalances.closing = True
        if not self._stays_member and not lost:
            give_up_membership(self._consumer)
        with suppress(errors.KafkaError):  # the group notices by itself that we are gone
            self._consumer.close(autocommit=False, timeout_ms=timeout_s * 1000)
            self._notes.close(autocommit=False, timeout_ms=timeout_s * 1000)

    def _store(self, consumer: Any, positions: Mapping[TopicPartition, OffsetAndMetadata]) -> None:  # noqa: ANN401 - the client ships no types
        try:
            consumer.commit(to_offsets(positions), timeout_ms=COMMIT_S * 1000)
        except errors.KafkaError as error:
            raise self._brokers.explain(error, "positions were not committed") from error

    def _ours(self, topic_partitions: Collection[TopicPartition]) -> list[KafkaTopicPartition]:
        ours = self._owned.intersection(topic_partitions)  # without what is revoked: the client has dropped it already
        return [each for each in self._consumer.assignment() if each in ours]

    def _hand_over(self) -> None:
        """Tell the listener what the client's thread noted."""
        noted, self._rebalances.noted = self._rebalances.noted, []
        for what, topic_partitions in noted:
            if what == "assigned":
                self._arriving |= topic_partitions
                self._consumer.pause(*(KafkaTopicPartition(*topic_partition) for topic_partition in topic_partitions))
                continue
            self._arriving -= topic_partitions
            gone = self._owned & topic_partitions
            if what == "revoked" and gone and self._listener:
                self._listener.on_revoked(gone)
            with self._lock:
                self._owned -= gone
            if what == "lost" and gone and self._listener:
                self._listener.on_lost(gone)
        self._announce()

    def _announce(self) -> None:
        """Take on what was assigned as soon as its committed positions are known."""
        if not self._arriving or not self._listener:
            return
        arriving = {
            topic_partition: KafkaTopicPartition(*topic_partition) for topic_partition in sorted(self._arriving)
        }
        offsets: dict[TopicPartition, int | None] = {}
        notes: dict[TopicPartition, str] = {}
        try:
            for topic_partition, partition in arriving.items():
                offsets[topic_partition] = self._consumer.committed(partition, timeout_ms=COMMIT_S * 1000)
                kept = self._notes.committed(partition, metadata=True, timeout_ms=COMMIT_S * 1000)
                notes[topic_partition] = (kept.metadata or "") if kept else ""
        except errors.KafkaError as error:
            self._wait_out(error, time.monotonic())
            return
        for topic_partition, offset in offsets.items():
            self._read[topic_partition] = offset or 0
            if offset is not None:
                self._consumer.seek(arriving[topic_partition], offset)
        self._consumer.resume(*arriving.values())
        with self._lock:
            self._owned |= self._arriving
        self._arriving = set()
        self._listener.on_assigned(notes)

    def _tell_expired(self, polled: Mapping[KafkaTopicPartition, list[Any]]) -> None:
        """Tell the listener of positions that had no records any more, as soon as it is known where reading goes on."""
        for topic_partition, first in list(self._left.items()):
            partition = KafkaTopicPartition(*topic_partition)
            records = polled.get(partition)
            until = records[0].offset if records else None
            if until is None and self._ours({topic_partition}):
                with suppress(errors.KafkaError):
                    until = self._consumer.position(partition, timeout_ms=0)
            if until is None and topic_partition in self._owned:
                continue
            del self._left[topic_partition]
            if until is not None and until != first and self._listener:
                self._listener.on_expired(topic_partition, first, until)

    def _wait_out(self, error: errors.KafkaError, until: float) -> None:
        """Let an outage pass, without spinning; raise when it is none."""
        explained = self._brokers.explain(error, "reading failed")
        if isinstance(explained, BrokerRefused):
            raise explained from error
        log.warning("the broker did not serve a read", error=str(error))
        time.sleep(max(0.0, until - time.monotonic()))

    def _notice_silence(self) -> None:
        now = time.monotonic()
        if self._connections.any_open():
            if self._silent:
                log.info("a broker answers again", seconds=round(now - self._answered_s, 1))
            self._answered_s, self._silent = now, False
        elif not self._silent and now - self._answered_s > SILENCE_S:
            self._silent = True
            log.warning("no broker answers; reading goes on when one does", brokers=self._brokers.bootstrap)
