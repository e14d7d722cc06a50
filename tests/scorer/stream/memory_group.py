"""A consumer group in this process: several partitions, members that come, go, stand still and die, and their outages.

A member runs the real service on a thread of its own, which does one turn of its loop each time it is let to.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from scorer.stream.broker import (
    BrokerRefused,
    BrokerUnavailable,
    Outgoing,
    PartitionListener,
    Place,
    Record,
    RecordsTooLarge,
)

TURN_S = 60
IDLE_S = 0.002  # of a poll without records: the other threads go on meanwhile


class Killed(BaseException):
    """Ends a service as a signal would: it does nothing more."""


@dataclass
class MemoryGroup:
    """The broker's side.

    Attributes:
        outages: how many of the next calls are refused for now, by what is asked: commit, notes, deliver.
        limits: the largest record that each topic takes, in bytes.
    """

    logs: dict[Place, list[Record]]
    committed: dict[Place, int] = field(default_factory=dict)
    notes: dict[Place, str] = field(default_factory=dict)
    answers: list[Outgoing] = field(default_factory=list)
    members: list["Member"] = field(default_factory=list)
    owners: dict[Place, "Member"] = field(default_factory=dict)
    outages: Counter[str] = field(default_factory=Counter)
    limits: Mapping[str, int] = field(default_factory=dict)
    lock: threading.RLock = field(default_factory=threading.RLock)

    def send(self, place: Place, key: bytes | None, value: bytes | None) -> Record:
        """Append a record."""
        with self.lock:
            record = Record(*place, len(self.logs[place]), 0, key, value)
            self.logs[place].append(record)
        return record

    def wanted(self, place: Place) -> "Member | None":
        """Return whose a partition is to be: members take turns."""
        return self.members[place.partition % len(self.members)] if self.members else None

    def remove(self, member: "Member") -> None:
        """Take a member out of the group, without its knowing."""
        with self.lock:
            if member in self.members:
                self.members.remove(member)
            for place in [place for place, owner in self.owners.items() if owner is member]:
                del self.owners[place]

    def check(self, what: str) -> None:
        """Refuse a call while there is an outage."""
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
        self._goes = threading.Event()  # not set: all its threads stand still
        self._goes.set()
        self._owned: set[Place] = set()
        self._next: dict[Place, int] = {}
        self._paused: set[Place] = set()
        self._listener: PartitionListener | None = None
        self._may_turn, self._turned = threading.Semaphore(0), threading.Semaphore(0)
        self._free = False
        group.members.append(self)
        self._thread = threading.Thread(target=self._run, args=[serve], daemon=True)
        self._thread.start()
        assert self._turned.acquire(timeout=TURN_S)

    def turn(self) -> None:
        """Let the service do one turn, unless it has ended."""
        if self._thread.is_alive():
            self._may_turn.release()
            assert self._turned.acquire(timeout=TURN_S)
        if self.dead:
            self.finish()

    def finish(self) -> None:
        """Let the service turn until it ends."""
        self._free = True
        self._may_turn.release()
        self._thread.join(TURN_S)
        assert not self._thread.is_alive()

    def kill(self) -> None:
        """End the service as a signal would; any thread may call this, its own ones too."""
        self.dead = True
        self.group.remove(self)
        self._goes.set()

    def stand_still(self) -> None:
        """Do nothing until `go_on`, which is later than the session's end."""
        self._goes.clear()
        self.group.remove(self)

    def go_on(self) -> None:
        """Go on, and join the group again."""
        if not self.dead:
            self.group.members.append(self)
        self._goes.set()

    def subscribe(self, listener: PartitionListener) -> None:
        """See `RecordSource`."""
        self._listener = listener

    def poll(self, timeout_s: float, max_records: int) -> Sequence[Record]:
        """See `RecordSource`; waits until the service may do its next turn."""
        if not self._free:
            self._turned.release()
            self._may_turn.acquire()
        self._live()
        self._rebalance()
        records: list[Record] = []
        with self.group.lock:
            for place in sorted(self._owned - self._paused):
                found = self.group.logs[place][self._next[place] :][: max_records - len(records)]
                self._next[place] += len(found)
                records += found
        if not records:
            time.sleep(min(timeout_s, IDLE_S))
        return records

    def pause(self, places: Collection[Place]) -> None:
        """See `RecordSource`."""
        self._paused |= self._owned & set(places)

    def resume(self, places: Collection[Place]) -> None:
        """See `RecordSource`."""
        self._paused -= set(places)

    def commit(self, offsets: Mapping[Place, int]) -> None:
        """See `RecordSource`."""
        self._live()
        self.group.check("commit")
        self._store(offsets)

    def write_notes(self, notes: Mapping[Place, str]) -> None:
        """See `RecordSource`."""
        self._live()
        self.group.check("notes")
        assert notes.keys() <= self._owned
        self.group.notes.update(notes)

    def lag(self) -> Mapping[Place, int]:
        """See `RecordSource`."""
        return {place: len(self.group.logs[place]) - self._next[place] for place in self._owned}

    def deliver(self, records: Sequence[Outgoing]) -> None:
        """See `RecordSink`."""
        self._sink_lives()
        self.group.check("deliver")
        refused = self._too_large(records)
        with self.group.lock:
            self.group.answers += [record for record in records if record not in refused]
        if refused:
            raise RecordsTooLarge(refused, "large")

    def deliver_once(self, records: Sequence[Outgoing], offsets: Mapping[Place, int]) -> None:
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
        except BaseException as error:  # noqa: BLE001 - looked at by whoever let it turn
            self.error = error
        self.kill()
        self._turned.release()

    def _rebalance(self) -> None:
        """Give up what is lost or is to be another's, and take what is to be ours and nobody's."""
        listener, group = self._listener, self.group
        assert listener
        with group.lock:
            lost = {place for place in self._owned if group.owners.get(place) is not self}
            given = {place for place in self._owned - lost if self in group.members and group.wanted(place) is not self}
        self._owned -= lost
        self._paused -= lost | given
        if lost:
            listener.on_lost(lost)
        if given:
            listener.on_revoked(given)
        self._owned -= given
        with group.lock:
            for place in given:
                del group.owners[place]
            taken = [place for place in group.logs if place not in group.owners and group.wanted(place) is self]
            group.owners.update(dict.fromkeys(taken, self))
        self._next.update({place: group.committed.get(place, 0) for place in taken})
        self._owned |= set(taken)
        if taken:
            listener.on_assigned({place: group.notes.get(place, "") for place in taken})

    def _store(self, offsets: Mapping[Place, int]) -> None:
        with self.group.lock:
            if any(self.group.owners.get(place) is not self for place in offsets):
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
