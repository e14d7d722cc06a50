"""Schedules the records that wait to be started, where some of them are suspects.

A suspect is processed alone in the worker, so that a crash identifies its record. After each suspect, the waiting
records of all other partitions are started in batches. So a partition without suspects waits for at most one record of
another partition, and a suspect for at most one budget of other records. Partitions with suspects alternate.
"""

from collections import deque
from collections.abc import Collection, Sequence

from scorer.stream.broker import TopicPartition
from scorer.stream.crash_notes import SuspectRange
from scorer.stream.ledger import InFlight, OffsetRange


class Isolation:
    """Used by one thread, the poller's."""

    def __init__(self) -> None:
        self._waiting: deque[InFlight] = deque()
        self._suspects: dict[TopicPartition, SuspectRange] = {}
        self._order: dict[TopicPartition, int] = {}  # number of each partition's last isolated record
        self._turn = 0

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def suspect_partitions(self) -> Collection[TopicPartition]:
        """The partitions with records that must be processed alone, received or not."""
        return self._suspects.keys()

    def add_suspects(self, topic_partition: TopicPartition, suspects: SuspectRange) -> None:
        """Process these records of a partition alone."""
        self._suspects[topic_partition] = suspects

    def add(self, entry: InFlight) -> None:
        """Note a record that was received."""
        self._waiting.append(entry)

    def remove(self, topic_partitions: Collection[TopicPartition]) -> list[InFlight]:
        """Remove the waiting records of partitions and return them."""
        removed = [entry for entry in self._waiting if entry.record.topic_partition in topic_partitions]
        self._waiting = deque(entry for entry in self._waiting if entry.record.topic_partition not in topic_partitions)
        return removed

    def clear_suspects(self, topic_partition: TopicPartition) -> None:
        """Remove the suspects of a partition."""
        self._suspects.pop(topic_partition, None)

    def note_end_reached(self, topic_partition: TopicPartition) -> None:
        """Note that a partition was read to its end: later records were in flight in no crash, and are no suspects."""
        if not any(entry.record.topic_partition == topic_partition for entry in self._waiting):
            self.clear_suspects(topic_partition)

    def crashed_with(self, topic_partition: TopicPartition, offset: int) -> tuple[str, ...]:
        """Return the processes that crashed with a record."""
        return self._suspects[topic_partition].crashed_with(offset) if topic_partition in self._suspects else ()

    def remaining_suspects(self, topic_partition: TopicPartition, offset: int) -> OffsetRange:
        """Return the range of suspects in a partition from `offset` on."""
        suspects = self._suspects[topic_partition]
        return OffsetRange(max(offset, suspects.first), max(offset, suspects.until))

    def split_waiting(self) -> tuple[Sequence[InFlight], dict[TopicPartition, InFlight]]:
        """Return the records that may be processed together, and each partition's next record if it is a suspect."""
        others: list[InFlight] = []
        next_alone: dict[TopicPartition, InFlight] = {}
        for entry in self._waiting:
            topic_partition, offset = entry.record.topic_partition, entry.record.offset
            if topic_partition in next_alone:
                continue  # it follows a suspect
            if topic_partition in self._suspects and offset >= self._suspects[topic_partition].until:
                del self._suspects[topic_partition]
            if self.crashed_with(topic_partition, offset):
                next_alone[topic_partition] = entry
            else:
                others.append(entry)
        return others, next_alone

    def start(self, entry: InFlight) -> None:
        """Note that a record is started."""
        self._waiting.remove(entry)

    def start_alone(self, entry: InFlight) -> None:
        """Note that a suspect is started, and when its partition had its last isolated record."""
        self.start(entry)
        self._turn += 1
        self._order[entry.record.topic_partition] = self._turn

    def choose_next(self, next_alone: dict[TopicPartition, InFlight]) -> InFlight:
        """Return the suspect of the partition that has waited longest since its last isolated record."""
        return next_alone[min(next_alone, key=lambda topic_partition: self._order.get(topic_partition, 0))]
