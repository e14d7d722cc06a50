"""Going through dead letters: listing them, and sending their originals back once.

What was sent back is remembered in the committed offsets of a group of its own: the position is the first letter
that was not, and the note beside it is a bitmap of the later ones that were.
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
    """A topic that is read from end to end, and what a group remembers of it."""

    def positions(self) -> Mapping[TopicPartition, OffsetAndMetadata]:
        """Return what is remembered, for the partitions of which something is."""

    def read(self, start: Mapping[TopicPartition, int]) -> Iterator[Record]:
        """Return each partition's records in order, from `start` or the beginning to where the topic ends now."""

    def remember(self, positions: Mapping[TopicPartition, OffsetAndMetadata]) -> None:
        """Store positions."""


@dataclass(frozen=True, slots=True)
class DeadLetterFilter:
    """Which letters are meant.

    Attributes:
        requests: the only topic that a letter may be sent back to, whatever it says.
        code: those with this error code only.
        since: those that died then or later only; of one whose timestamp is no time that is not known.
    """

    requests: str
    code: str | None = None
    since: datetime | None = None

    def takes(self, letter: DeadLetter) -> bool:
        """Return whether a letter is meant."""
        late = self.since is None or (letter.died_at is not None and letter.died_at >= self.since)
        return late and self.code in {None, letter.reason.code}


@dataclass(slots=True)
class ReplayCounts:
    """What came of a replay: originals sent, by error code, and records that cannot be sent back, by reason."""

    sent: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)


class ReplayedOffsets:
    """Which letters of a partition were replayed: all below `first_open`, and some later ones."""

    def __init__(self, position: OffsetAndMetadata | None) -> None:
        self.first_open = position.offset if position else 0
        self._later: set[int] = set()
        self._at_gap = False  # whether `first_open` was passed on this walk and stays open
        if position and position.note:
            bits = zlib.decompress(base64.b64decode(position.note))
            self._later = {self.first_open + n for n in range(8 * len(bits)) if bits[n // 8] >> n % 8 & 1}

    def knows(self, offset: int) -> bool:
        """Return whether the letter was replayed."""
        return offset < self.first_open or offset in self._later

    def walk(self, offset: int, *, replayed: bool) -> None:
        """Take in the next letter of a walk in order of offsets."""
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
            TooScattered: its note would be longer than a broker keeps.
        """
        later = [offset - self.first_open for offset in self._later if offset > self.first_open]
        bits = bytearray(max(later, default=-1) // 8 + 1)
        for n in later:
            bits[n // 8] |= 1 << n % 8
        note = base64.b64encode(zlib.compress(bits, 9)).decode() if later else ""
        if len(note) > MAX_NOTE_CHARACTERS:
            message = (
                "what would be sent lies too scattered among what would stay to remember which was; "
                "replay without --code and --since"
            )
            raise TooScattered(message)
        return OffsetAndMetadata(self.first_open, note)


def list_dead_letters(log: TopicLog, choice: DeadLetterFilter) -> Iterator[DeadLetter]:
    """Return the letters that are meant; records that are no letters are left out."""
    for record in log.read({}):
        with suppress(NotReplayable):
            if choice.takes(letter := read_dead_letter(record)):
                yield letter


class Replay:
    """One way through a topic of dead letters.

    Args:
        again: also take what was replayed before.
        limit: stop after so many.
    """

    def __init__(
        self, log: TopicLog, choice: DeadLetterFilter, *, again: bool = False, limit: int | None = None
    ) -> None:
        self._log, self._choice, self._again, self._limit = log, choice, again, limit
        self._memories: dict[TopicPartition, ReplayedOffsets] = {}

    def plan(self) -> ReplayCounts:
        """Return what `run` would do."""
        tally = ReplayCounts()
        for code, _ in self._choose(tally):
            tally.sent[code] += 1
        return tally

    def run(self, sink: RecordSink, on_sent: Callable[[int], None]) -> ReplayCounts:
        """Send originals back, in batches, and remember each batch when it is acknowledged.

        A crash between the two sends one batch twice. `on_sent` is told how many more were sent.

        Raises:
            BrokerUnavailable: not all are acknowledged; run it again.
            BrokerRefused: a record will never be taken.
            TooScattered: no more can be remembered, and so no more is sent.
        """
        tally = ReplayCounts()
        batch: list[tuple[str, Outgoing]] = []
        bytes_in_batch = 0
        for code, original in self._choose(tally):
            batch.append((code, original))
            bytes_in_batch += len(original.value or b"")
            if len(batch) == BATCH_RECORDS or bytes_in_batch > BATCH_BYTES:
                self._send(batch, sink, tally)
                on_sent(len(batch))
                batch, bytes_in_batch = [], 0
        self._send(batch, sink, tally)
        on_sent(len(batch))
        return tally

    def _send(self, batch: Sequence[tuple[str, Outgoing]], sink: RecordSink, tally: ReplayCounts) -> None:
        positions = {topic_partition: memory.store() for topic_partition, memory in self._memories.items()}
        if batch:
            sink.deliver([original for _, original in batch])
            self._log.remember(positions)
        tally.sent.update(code for code, _ in batch)

    def _choose(self, tally: ReplayCounts) -> Iterator[tuple[str, Outgoing]]:
        """Return codes and originals to send, and take note of every letter on the way."""
        self._memories = {
            topic_partition: ReplayedOffsets(position) for topic_partition, position in self._log.positions().items()
        }
        start = (
            {}
            if self._again
            else {topic_partition: memory.first_open for topic_partition, memory in self._memories.items()}
        )
        chosen = 0
        for record in self._log.read(start):
            memory = self._memories.setdefault(record.topic_partition, ReplayedOffsets(None))
            known = memory.knows(record.offset)
            taken = None if known and not self._again else self._original(record, tally)
            memory.walk(record.offset, replayed=known or taken is not None)
            if taken:
                yield taken
                chosen += 1
                if chosen == self._limit:
                    return

    def _original(self, record: Record, tally: ReplayCounts) -> tuple[str, Outgoing] | None:
        try:
            letter = read_dead_letter(record)
            if not self._choice.takes(letter):
                return None
            original = restore(record)
        except NotReplayable as error:
            tally.refused[str(error)] += 1
            return None
        if original.topic != self._choice.requests:
            # Whoever can write letters must not choose where this command writes.
            tally.refused[f"it came from {original.topic}, not from {self._choice.requests}"] += 1
            return None
        return letter.reason.code, original
