"""Records that were received and not begun, and whose turn it is where some of them are suspects.

A suspect is processed alone in the worker: only so does a death say which record it is the doing of. Between two
suspects all other partitions have a turn, in batches, with what they have waiting. So a partition without suspects
waits for one record of another one at most, and a suspect for at most one budget of others. The partitions with
suspects take turns among themselves.
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
        self._order: dict[TopicPartition, int] = {}  # when each partition had its last turn alone
        self._turn = 0

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def suspected(self) -> Collection[TopicPartition]:
        """The partitions with records that are to be processed alone, received or not."""
        return self._suspects.keys()

    def suspect(self, topic_partition: TopicPartition, suspects: SuspectRange) -> None:
        """Process these records of a partition alone."""
        self._suspects[topic_partition] = suspects

    def add(self, entry: InFlight) -> None:
        """Note a record that was received."""
        self._waiting.append(entry)

    def forget(self, topic_partitions: Collection[TopicPartition]) -> list[InFlight]:
        """Return the records of partitions that wait; they wait no more."""
        gone = [entry for entry in self._waiting if entry.record.topic_partition in topic_partitions]
        self._waiting = deque(entry for entry in self._waiting if entry.record.topic_partition not in topic_partitions)
        return gone

    def let_go(self, topic_partition: TopicPartition) -> None:
        """Forget whom to suspect in a partition."""
        self._suspects.pop(topic_partition, None)

    def caught_up(self, topic_partition: TopicPartition) -> None:
        """Take note that the broker has no more records of a partition: those to come were in nobody's hands."""
        if not any(entry.record.topic_partition == topic_partition for entry in self._waiting):
            self.let_go(topic_partition)

    def crashed_with(self, topic_partition: TopicPartition, offset: int) -> tuple[str, ...]:
        """Return the processes that ended with a record in hand."""
        return self._suspects[topic_partition].crashed_with(offset) if topic_partition in self._suspects else ()

    def left_of(self, topic_partition: TopicPartition, offset: int) -> OffsetRange:
        """Return the records of a suspected partition from `offset` on that are still suspects."""
        suspects = self._suspects[topic_partition]
        return OffsetRange(max(offset, suspects.first), max(offset, suspects.until))

    def sort(self) -> tuple[Sequence[InFlight], dict[TopicPartition, InFlight]]:
        """Return the records that may share the worker, and the next one of each partition whose next is a suspect."""
        others: list[InFlight] = []
        next_alone: dict[TopicPartition, InFlight] = {}
        for entry in self._waiting:
            topic_partition, offset = entry.record.topic_partition, entry.record.offset
            if topic_partition in next_alone:
                continue  # behind a suspect
            if topic_partition in self._suspects and offset >= self._suspects[topic_partition].until:
                del self._suspects[topic_partition]
            if self.crashed_with(topic_partition, offset):
                next_alone[topic_partition] = entry
            else:
                others.append(entry)
        return others, next_alone

    def begin(self, entry: InFlight) -> None:
        """Note that a record waits no more."""
        self._waiting.remove(entry)

    def begin_alone(self, entry: InFlight) -> None:
        """Note that a record waits no more, and that its partition had its turn."""
        self.begin(entry)
        self._turn += 1
        self._order[entry.record.topic_partition] = self._turn

    def choose(self, next_alone: dict[TopicPartition, InFlight]) -> InFlight:
        """Return the one whose partition's last turn was the longest ago."""
        return next_alone[min(next_alone, key=lambda topic_partition: self._order.get(topic_partition, 0))]
