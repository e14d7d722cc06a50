"""Lists dead letters and replays them: sends each original back to the topic of requests once.

The replayed dead letters are stored in the committed offsets of a separate group: the offset is the first dead letter
that was not replayed, and its metadata is a bitmap of the later ones that were.
"""

import base64
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from scorer.errors import TooScattered
from scorer.stream.broker import OffsetAndMetadata, Outgoing, Record, RecordSink, TopicPartition
from scorer.stream.dead_letters import DeadLetter, NotReplayable, read_dead_letter, restore

MAX_NOTE_CHARACTERS = 4000
BATCH_RECORDS, BATCH_BYTES = 100, 16 * 2**20


class TopicLog(Protocol):
    """A topic that is read from beginning to end, and the positions that a group stores for it."""

    def positions(self) -> Mapping[TopicPartition, OffsetAndMetadata]:
        """Return the stored position of each partition that has one."""

    def read(self, start: Mapping[TopicPartition, int]) -> Iterator[Record]:
        """Return each partition's records in order, from `start` or the beginning to the current end."""

    def remember(self, positions: Mapping[TopicPartition, OffsetAndMetadata]) -> None:
        """Store positions."""


@dataclass(frozen=True, slots=True)
class DeadLetterFilter:
    """Selects dead letters.

    Attributes:
        requests: the only topic to which originals are sent, whatever a dead letter states.
        code: select only this error code.
        since: select only dead letters written at this time or later, and none without a valid timestamp.
    """

    requests: str
    code: str | None = None
    since: datetime | None = None

    def selects(self, dead_letter: DeadLetter) -> bool:
        """Return whether a dead letter is selected."""
        late = self.since is None or (dead_letter.written_at is not None and dead_letter.written_at >= self.since)
        return late and self.code in {None, dead_letter.reason.code}


@dataclass(slots=True)
class ReplayCounts:
    """Result of a replay: originals sent by error code, and records that cannot be sent by reason."""

    sent: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)


class ReplayedOffsets:
    """The replayed dead letters of a partition: all before `first_open`, and some later ones."""

    def __init__(self, position: OffsetAndMetadata | None) -> None:
        self.first_open = position.offset if position else 0
        self._later: set[int] = set()
        self._at_gap = False  # whether this walk has passed `first_open`, which stays open
        if position and position.note:
            bits = zlib.decompress(base64.b64decode(position.note))
            self._later = {self.first_open + n for n in range(8 * len(bits)) if bits[n // 8] >> n % 8 & 1}

    def knows(self, offset: int) -> bool:
        """Return whether the dead letter was replayed."""
        return offset < self.first_open or offset in self._later

    def walk(self, offset: int, *, replayed: bool) -> None:
        """Note the next dead letter, in the order of offsets."""
        if offset < self.first_open:
            return
        if self._at_gap:
            if replayed:
                self._later.add(offset)
        elif replayed:
            self.first_open = offset + 1
            while self.first_open in self._later:
                self.first_open += 1
        else:
            self.first_open, self._at_gap = offset, True

    def store(self) -> OffsetAndMetadata:
        """Return the position to commit.

        Raises:
            TooScattered: the bitmap is longer than a broker stores.
        """
        later = [offset - self.first_open for offset in self._later if offset > self.first_open]
        bits = bytearray(max(later, default=-1) // 8 + 1)
        for n in later:
            bits[n // 8] |= 1 << n % 8
        note = base64.b64encode(zlib.compress(bits, 9)).decode() if later else ""
        if len(note) > MAX_NOTE_CHARACTERS:
            message = (
                "the selected dead letters lie too scattered among the others to store which were replayed; "
                "replay without --code and --since"
            )
            raise TooScattered(message)
        return OffsetAndMetadata(self.first_open, note)


def list_dead_letters(log: TopicLog, choice: DeadLetterFilter) -> Iterator[DeadLetter]:
    """Return the selected dead letters; other records of the topic are skipped."""
    for record in log.read({}):
        with suppress(NotReplayable):
            if choice.selects(dead_letter := read_dead_letter(record)):
                yield dead_letter


class Replay:
    """One replay of a topic of dead letters.

    Args:
        again: also select dead letters that were replayed before.
        limit: stop after this number of originals.
    """

    def __init__(
        self, log: TopicLog, choice: DeadLetterFilter, *, again: bool = False, limit: int | None = None
    ) -> None:
        self._log, self._choice, self._again, self._limit = log, choice, again, limit
        self._replayed: dict[TopicPartition, ReplayedOffsets] = {}

    def plan(self) -> ReplayCounts:
        """Return the counts of a replay without sending anything."""
        counts = ReplayCounts()
        for code, _ in self._choose(counts):
            counts.sent[code] += 1
        return counts

    def run(self, sink: RecordSink, on_sent: Callable[[int], None]) -> ReplayCounts:
        """Send originals back in batches, and store each batch as replayed when it is acknowledged.

        A crash between the two sends one batch twice. `on_sent` receives the size of each batch.

        Raises:
            BrokerUnavailable: not all are acknowledged; run it again.
            BrokerRefused: the broker refuses a record.
            TooScattered: no further replays can be stored, so no more are sent.
        """
        counts = ReplayCounts()
        batch: list[tuple[str, Outgoing]] = []
        bytes_in_batch = 0
        for code, original in self._choose(counts):
            batch.append((code, original))
            bytes_in_batch += len(original.value or b"")
            if len(batch) == BATCH_RECORDS or bytes_in_batch > BATCH_BYTES:
                self._send(batch, sink, counts)
                on_sent(len(batch))
                batch, bytes_in_batch = [], 0
        self._send(batch, sink, counts)
        on_sent(len(batch))
        return counts

    def _send(self, batch: Sequence[tuple[str, Outgoing]], sink: RecordSink, counts: ReplayCounts) -> None:
        positions = {topic_partition: replayed.store() for topic_partition, replayed in self._replayed.items()}
        if batch:
            sink.deliver([original for _, original in batch])
            self._log.remember(positions)
        counts.sent.update(code for code, _ in batch)

    def _choose(self, counts: ReplayCounts) -> Iterator[tuple[str, Outgoing]]:
        """Yield codes and originals to send, and note every dead letter that is passed."""
        self._replayed = {
            topic_partition: ReplayedOffsets(position) for topic_partition, position in self._log.positions().items()
        }
        start = (
            {}
            if self._again
            else {topic_partition: replayed.first_open for topic_partition, replayed in self._replayed.items()}
        )
        chosen = 0
        for record in self._log.read(start):
            replayed = self._replayed.setdefault(record.topic_partition, ReplayedOffsets(None))
            known = replayed.knows(record.offset)
            taken = None if known and not self._again else self._original(record, counts)
            replayed.walk(record.offset, replayed=known or taken is not None)
            if taken:
                yield taken
                chosen += 1
                if chosen == self._limit:
                    return

    def _original(self, record: Record, counts: ReplayCounts) -> tuple[str, Outgoing] | None:
        try:
            dead_letter = read_dead_letter(record)
            if not self._choice.selects(dead_letter):
                return None
            original = restore(record)
        except NotReplayable as error:
            counts.refused[str(error)] += 1
            return None
        if original.topic != self._choice.requests:
            # A writer of dead letters must not choose the topic that this command writes to.
            counts.refused[f"it was read from {original.topic}, not from {self._choice.requests}"] += 1
            return None
        return dead_letter.reason.code, original
