"""A consumer group in this process: several partitions, outages, and members that join, leave, pause and crash.

A member runs the real service on its own thread, which runs its loop once for each call of `turn`.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from scorer.errors import BrokerRefused, BrokerUnavailable
from scorer.stream.broker import Outgoing, PartitionListener, Record, RecordsTooLarge, TopicPartition

TURN_S = 60
IDLE_S = 0.002  # of a poll without records: other threads run meanwhile


class Killed(BaseException):
    """Ends a service like a signal: it does nothing more."""


@dataclass
class MemoryGroup:
    """The broker's side.

    Attributes:
        outages: how many of the next calls fail, by call: commit, notes, deliver.
        limits: the largest record of each topic, in bytes.
    """

    logs: dict[TopicPartition, list[Record]]
    committed: dict[TopicPartition, int] = field(default_factory=dict)
    notes: dict[TopicPartition, str] = field(default_factory=dict)
    answers: list[Outgoing] = field(default_factory=list)
    members: list["Member"] = field(default_factory=list)
    owners: dict[TopicPartition, "Member"] = field(default_factory=dict)
    outages: Counter[str] = field(default_factory=Counter)
    limits: Mapping[str, int] = field(default_factory=dict)
    lock: threading.RLock = field(default_factory=threading.RLock)

    def send(self, topic_partition: TopicPartition, key: bytes | None, value: bytes | None) -> Record:
        """Append a record."""
        with self.lock:
            record = Record(*topic_partition, len(self.logs[topic_partition]), 0, key, value)
            self.logs[topic_partition].append(record)
        return record

    def wanted(self, topic_partition: TopicPartition) -> "Member | None":
        """Return the member that a partition is assigned to: members alternate."""
        return self.members[topic_partition.partition % len(self.members)] if self.members else None

    def remove(self, member: "Member") -> None:
        """Remove a member from the group without telling it."""
        with self.lock:
            if member in self.members:
                self.members.remove(member)
            for topic_partition in [
                topic_partition for topic_partition, owner in self.owners.items() if owner is member
            ]:
                del self.owners[topic_partition]

    def check(self, what: str) -> None:
        """Fail a call during an outage."""
        with self.lock:
            if self.outages[what] > 0:
                self.outages[what] -= 1
                raise BrokerUnavailable(what)


class Member:
    """A service in the group: its source and its sink; see `RecordSource` and `RecordSink`."""

    def __init__(self, group: MemoryGroup, serve: Callable[["Member"], Any]) -> None:
        self.group = group
        self.dead = False
        self.error: BaseException | None = None
        self.stop = threading.Event()
        self._goes = threading.Event()  # not set: its threads are paused
        self._goes.set()
        self._owned: set[TopicPartition] = set()
        self._next: dict[TopicPartition, int] = {}
        self._paused: set[TopicPartition] = set()
        self._listener: PartitionListener | None = None
        self._may_turn, self._turned = threading.Semaphore(0), threading.Semaphore(0)
        self._free = False
        group.members.append(self)
        self._thread = threading.Thread(target=self._run, args=[serve], daemon=True)
        self._thread.start()
        assert self._turned.acquire(timeout=TURN_S)

    def turn(self) -> None:
        """Let the service run its loop once, unless it has ended."""
        if self._thread.is_alive():
            self._may_turn.release()
            assert self._turned.acquire(timeout=TURN_S)
        if self.dead:
            self.finish()

    def finish(self) -> None:
        """Let the service run until it ends."""
        self._free = True
        self._may_turn.release()
        self._thread.join(TURN_S)
        assert not self._thread.is_alive()

    def kill(self) -> None:
        """End the service like a signal; any thread may call this, also its own."""
        self.dead = True
        self.group.remove(self)
        self._goes.set()

    def stand_still(self) -> None:
        """Pause until `go_on`, for longer than the session."""
        self._goes.clear()
        self.group.remove(self)

    def go_on(self) -> None:
        """Continue, and join the group again."""
        if not self.dead:
            self.group.members.append(self)
        self._goes.set()

    def subscribe(self, listener: PartitionListener) -> None:
        """See `RecordSource`."""
        self._listener = listener

    def poll(self, timeout_s: float, max_records: int) -> Sequence[Record]:
        """See `RecordSource`; waits until the service may run its next loop."""
        if not self._free:
            self._turned.release()
            self._may_turn.acquire()
        self._live()
        self._rebalance()
        records: list[Record] = []
        with self.group.lock:
            for topic_partition in sorted(self._owned - self._paused):
                found = self.group.logs[topic_partition][self._next[topic_partition] :][: max_records - len(records)]
                self._next[topic_partition] += len(found)
                records += found
        if not records:
            time.sleep(min(timeout_s, IDLE_S))
        return records

    def pause(self, topic_partitions: Collection[TopicPartition]) -> None:
        """See `RecordSource`."""
        self._paused |= self._owned & set(topic_partitions)

    def resume(self, topic_partitions: Collection[TopicPartition]) -> None:
        """See `RecordSource`."""
        self._paused -= set(topic_partitions)

    def commit(self, offsets: Mapping[TopicPartition, int]) -> None:
        """See `RecordSource`."""
        self._live()
        self.group.check("commit")
        self._store(offsets)

    def write_notes(self, notes: Mapping[TopicPartition, str]) -> None:
        """See `RecordSource`."""
        self._live()
        self.group.check("notes")
        assert notes.keys() <= self._owned
        self.group.notes.update(notes)

    def lag(self) -> Mapping[TopicPartition, int]:
        """See `RecordSource`."""
        return {
            topic_partition: len(self.group.logs[topic_partition]) - self._next[topic_partition]
            for topic_partition in self._owned
        }

    def skipped(self) -> Mapping[TopicPartition, int]:
        """See `RecordSource`; every offset has a record."""
        return {}

    def blocked_s(self) -> Mapping[TopicPartition, float]:
        """See `RecordSource`; there are no open transactions."""
        return {}

    def deliver(self, records: Sequence[Outgoing]) -> None:
        """See `RecordSink`."""
        self._sink_lives()
        self.group.check("deliver")
        refused = self._too_large(records)
        with self.group.lock:
            self.group.answers += [record for record in records if record not in refused]
        if refused:
            raise RecordsTooLarge(refused, "large")

    def deliver_once(self, records: Sequence[Outgoing], offsets: Mapping[TopicPartition, int]) -> None:
        """See `RecordSink`."""
        self._sink_lives()
        self.group.check("deliver")
        if refused := self._too_large(records):
            raise RecordsTooLarge(refused, "large")
        with self.group.lock:
            self._store(offsets)
            self.group.answers += records

    def close(self, timeout_s: float) -> None:
        """See `RecordSource` and `RecordSink`, which are closed one after the other."""
        del timeout_s
        if self._listener and self._owned and not self.dead:
            self._rebalance()
            self._listener.on_revoked(frozenset(self._owned))
        self._owned = set()
        self.group.remove(self)

    def _run(self, serve: Callable[["Member"], Any]) -> None:
        try:
            serve(self)
        except BaseException as error:  # noqa: BLE001 - checked by the test
            self.error = error
        self.kill()
        self._turned.release()

    def _rebalance(self) -> None:
        """Release partitions that are lost or reassigned, and take free ones that are assigned to this member."""
        listener, group = self._listener, self.group
        assert listener
        with group.lock:
            lost = {topic_partition for topic_partition in self._owned if group.owners.get(topic_partition) is not self}
            given = {
                topic_partition
                for topic_partition in self._owned - lost
                if self in group.members and group.wanted(topic_partition) is not self
            }
        self._owned -= lost
        self._paused -= lost | given
        if lost:
            listener.on_lost(lost)
        if given:
            listener.on_revoked(given)
        self._owned -= given
        with group.lock:
            for topic_partition in given:
                del group.owners[topic_partition]
            taken = [
                topic_partition
                for topic_partition in group.logs
                if topic_partition not in group.owners and group.wanted(topic_partition) is self
            ]
            group.owners.update(dict.fromkeys(taken, self))
        self._next.update({topic_partition: group.committed.get(topic_partition, 0) for topic_partition in taken})
        self._owned |= set(taken)
        if taken:
            listener.on_assigned({topic_partition: group.notes.get(topic_partition, "") for topic_partition in taken})

    def _store(self, offsets: Mapping[TopicPartition, int]) -> None:
        with self.group.lock:
            if any(self.group.owners.get(topic_partition) is not self for topic_partition in offsets):
                raise BrokerUnavailable("another member has it")  # noqa: EM101, TRY003 - what a broker says
            self.group.committed.update(offsets)

    def _live(self) -> None:
        if self.dead:
            raise Killed

    def _sink_lives(self) -> None:
        self._goes.wait()
        if self.dead:
            raise BrokerRefused("dead")  # noqa: EM101 - ends the deliverer

    def _too_large(self, records: Sequence[Outgoing]) -> list[Outgoing]:
        return [record for record in records if record.size > self.group.limits.get(record.topic, 1 << 30)]
