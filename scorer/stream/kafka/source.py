"""Reads requests from Kafka for a group, cooperative-sticky. The poller's thread owns it."""

import threading
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from typing import Any

from scorer.observe.logs import get_logger
from scorer.stream.broker import BrokerRefused, BrokerUnavailable, PartitionListener, Place, Position, Record
from scorer.stream.kafka.client import (
    Brokers,
    ConsumerGroupMetadata,
    HandOver,
    LogEnds,
    MemberState,
    Rebalances,
    TopicPartition,
    errors,
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

    def __init__(self, brokers: Brokers, group: str, topic: str, *, stays_member: bool = False) -> None:
        self._brokers, self._group, self._topic = brokers, group, topic
        self._consumer, self._connections = brokers.open_consumer(group, joins=True)
        self._notes, _ = brokers.open_consumer(f"{group}.notes", joins=False, isolation="read_uncommitted")
        # Where a transaction is open, the end of what may be read lies before the log's.
        self._stable_ends, self._log_ends = LogEnds(self._consumer), LogEnds(self._notes)
        self._read: dict[Place, int] = {}  # behind the last record
        self._blocked: dict[Place, tuple[int, float]] = {}  # at which offset, since when
        self._notes.assign([TopicPartition(topic, 0)])  # a member of no group, whatever the partition
        self._stays_member = stays_member
        self._left = note_resets(self._consumer)
        self._rebalances = Rebalances()
        self._listener: PartitionListener | None = None
        self._arriving: set[Place] = set()  # assigned, and held paused until the listener knows their positions
        self._lock = threading.Lock()  # the deliverer asks for the membership
        self._owned: set[Place] = set()
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
        polled: Mapping[TopicPartition, list[Any]] = {}
        try:
            polled = self._consumer.poll(timeout_ms=timeout_s * 1000, max_records=max_records)
        except errors.KafkaError as error:
            if not isinstance(error.__cause__, HandOver):
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
            self._read[Place(*partition)] = records[-1].offset + 1
        return [to_record(each) for records in polled.values() for each in records]

    def pause(self, places: Collection[Place]) -> None:
        """See `RecordSource`."""
        self._consumer.pause(*self._ours(places))

    def resume(self, places: Collection[Place]) -> None:
        """See `RecordSource`."""
        self._consumer.resume(*self._ours(places))

    def commit(self, offsets: Mapping[Place, int]) -> None:
        """See `RecordSource`; takes at most 5 s.

        Raises:
            BrokerUnavailable: not stored now.
            BrokerRefused: another worker has our instance id, or we have no right to the group.
            ValueError: a partition is not ours, so that its owner's position would be overwritten.
        """
        if strangers := offsets.keys() - self._owned:
            message = f"positions of {sorted(strangers)} are not ours to commit"
            raise ValueError(message)
        self._store(self._consumer, {place: Position(offset) for place, offset in offsets.items()})

    def write_notes(self, notes: Mapping[Place, str]) -> None:
        """See `RecordSource`; takes at most 5 s.

        They are kept as commits of a second group, `<group>.notes`, that has no members and so never rebalances.

        Raises:
            BrokerUnavailable: not kept now.
            BrokerRefused: we have no right to that group.
        """
        self._store(self._notes, {place: Position(0, note) for place, note in notes.items()})

    def lag(self) -> Mapping[Place, int]:
        """See `RecordSource`; as the broker answered to the last call, and to reads."""
        lags = {}
        ours = self._ours(self._owned)
        self._log_ends.ask(ours)
        for partition in ours:
            ends = (self._log_ends.known.get(Place(*partition)), self._consumer.highwater(partition))
            position = self._position(partition)
            if position is not None and any(end is not None for end in ends):
                lags[Place(*partition)] = max(0, max(end for end in ends if end is not None) - position)
        return lags

    def skipped(self) -> Mapping[Place, int]:
        """See `RecordSource`: the ends of transactions, and what was aborted, compacted or has expired."""
        positions = {Place(*partition): self._position(partition) for partition in self._ours(self._owned)}
        return {place: at for place, at in positions.items() if at is not None and at > self._read[place]}

    def blocked_s(self) -> Mapping[Place, float]:
        """See `RecordSource`; as the broker answered to the last calls of this and of `lag`."""
        ours, now = self._ours(self._owned), time.monotonic()
        self._stable_ends.ask(ours)
        blocked: dict[Place, tuple[int, float]] = {}
        for place in (Place(*partition) for partition in ours):
            stable = self._stable_ends.known.get(place)
            if stable is not None and stable < self._log_ends.known.get(place, 0):
                at, since = self._blocked.get(place, (stable, now))
                blocked[place] = (stable, since if at == stable else now)
        self._blocked = blocked
        return {place: now - blocked[place][1] if place in blocked else 0.0 for place in self._owned}

    def _position(self, partition: TopicPartition) -> int | None:
        with suppress(errors.KafkaError):
            position: int | None = self._consumer.position(partition, timeout_ms=0)
            return position
        return None

    def membership(self, places: Collection[Place]) -> ConsumerGroupMetadata:
        """Return what proves to the broker that these partitions are ours now; from any thread.

        Raises:
            BrokerUnavailable: they are not, or we are between two generations of the group.
        """
        with self._lock:
            # A generation below zero stands for a consumer without a group: the broker would check nothing.
            if self._owned.issuperset(places) and self._membership.generation_id >= 0:
                return self._membership
        message = f"the group {self._group} is moving {sorted(places)}; nothing was written"
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

    def _store(self, consumer: Any, positions: Mapping[Place, Position]) -> None:  # noqa: ANN401 - the client ships no types
        try:
            consumer.commit(to_offsets(positions), timeout_ms=COMMIT_S * 1000)
        except errors.KafkaError as error:
            raise self._brokers.explain(error, "positions were not committed") from error

    def _ours(self, places: Collection[Place]) -> list[TopicPartition]:
        ours = self._owned.intersection(places)  # without what is revoked: the client has dropped it already
        return [each for each in self._consumer.assignment() if each in ours]

    def _hand_over(self) -> None:
        """Tell the listener what the client's thread noted."""
        noted, self._rebalances.noted = self._rebalances.noted, []
        for what, places in noted:
            if what == "assigned":
                self._arriving |= places
                self._consumer.pause(*(TopicPartition(*place) for place in places))
                continue
            self._arriving -= places
            gone = self._owned & places
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
        arriving = {place: TopicPartition(*place) for place in sorted(self._arriving)}
        offsets: dict[Place, int | None] = {}
        notes: dict[Place, str] = {}
        try:
            for place, partition in arriving.items():
                offsets[place] = self._consumer.committed(partition, timeout_ms=COMMIT_S * 1000)
                kept = self._notes.committed(partition, metadata=True, timeout_ms=COMMIT_S * 1000)
                notes[place] = (kept.metadata or "") if kept else ""
        except errors.KafkaError as error:
            self._wait_out(error, time.monotonic())
            return
        for place, offset in offsets.items():
            self._read[place] = offset or 0
            if offset is not None:
                self._consumer.seek(arriving[place], offset)
        self._consumer.resume(*arriving.values())
        with self._lock:
            self._owned |= self._arriving
        self._arriving = set()
        self._listener.on_assigned(notes)

    def _tell_expired(self, polled: Mapping[TopicPartition, list[Any]]) -> None:
        """Tell the listener of positions that had no records any more, as soon as it is known where reading goes on."""
        for place, first in list(self._left.items()):
            partition = TopicPartition(*place)
            records = polled.get(partition)
            until = records[0].offset if records else None
            if until is None and self._ours({place}):
                with suppress(errors.KafkaError):
                    until = self._consumer.position(partition, timeout_ms=0)
            if until is None and place in self._owned:
                continue
            del self._left[place]
            if until is not None and until != first and self._listener:
                self._listener.on_expired(place, first, until)

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
