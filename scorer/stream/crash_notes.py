"""Crash notes: find the record that crashes its worker, by a note that the broker stores for each partition.

Before a worker starts records, it writes an *open* note with the range of offsets that it processes. When it leaves the
group normally, it writes a *closed* note. A worker that takes over a partition and finds an open note of another
process knows that this process ended while it processed those records. Each record of the range is then processed
alone in the worker. Before such a record starts, the note receives the processes that crashed with it; when the record
is done, the note states that. A record with which three processes crashed is not retried: it becomes a dead letter.

Processes are counted, not takeovers. A paused process loses its partitions, and finds its own note when it comes back:
its own name in the note is not a crash. A worker that takes over from it meanwhile cannot know that the process still
runs, and counts it once.

The end of a process counts as a crash unless its cause is known and lies in no record. In that case the worker closes
its notes before it exits:

    no crash   SIGTERM (exit code 0); another engine, or no decoding process can be started (65); damaged or missing
               GPU hardware (71); Triton or the broker unavailable, or a transaction that the broker does not end (75);
               a refusal by the broker, or a wrong setting (78)
    a crash    a signal (SIGKILL, lack of memory, abort); an unforeseen exception (70), also an OSError (75), because
               decoders raise it for the bytes that they read; a fault of a GPU kernel (71); SIGTERM where no started
               record finished within the drain although neither broker nor engine was unavailable: a record may have
               stalled the worker

A broker that cannot be reached stores no note: then the end counts as a crash, whatever its cause.

A note never starts behind an offset that is not committed. Otherwise the worker that reads it would start with records
that the note does not contain, and a record before its range could crash workers forever without being counted.

The broker stores the count, so that it survives the loss of the worker, its disk and its pod. It is stored in a second
group beside the group's offsets, because those cannot be committed while the group rebalances.
"""

import re
from dataclasses import dataclass
from typing import Self
from uuid import uuid4

MAX_CRASHES = 3
_PROCESS = "[0-9a-f]{12}"
_CRASHED = rf"(?:{_PROCESS}(?:,{_PROCESS}){{0,99}})?"
_NOTE = re.compile(rf"(open|closed) first=(\d{{1,19}}) until=(\d{{1,19}}) holder=({_PROCESS}) dead=({_CRASHED})")


def new_process() -> str:
    """Return a unique name for this process."""
    return uuid4().hex[:12]


@dataclass(frozen=True, slots=True)
class CrashNote:
    """The state of the records from offset `first` to before `until`.

    Attributes:
        open: a worker processes them.
        holder: the process that wrote this.
        crashed: the processes that crashed with the first record, without the holder.
    """

    open: bool
    first: int
    until: int
    holder: str
    crashed: tuple[str, ...] = ()

    def __str__(self) -> str:
        state = "open" if self.open else "closed"
        return f"{state} first={self.first} until={self.until} holder={self.holder} dead={','.join(self.crashed)}"

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Return the note in `text`; None if another program wrote it."""
        match = _NOTE.fullmatch(text)
        if match is None:
            return None
        state, first, until, holder, crashed = match.groups()
        return cls(state == "open", int(first), int(until), holder, tuple(crashed.split(",")) if crashed else ())


@dataclass(frozen=True, slots=True)
class SuspectRange:
    """The records of one partition that must be processed alone in the worker.

    Attributes:
        crashed: the processes that crashed with the first record; the other records were in flight only in the first of
            these crashes.
    """

    first: int
    until: int
    crashed: tuple[str, ...]

    def crashed_with(self, offset: int) -> tuple[str, ...]:
        """Return the processes that crashed with the record at `offset`; none if it is no suspect."""
        if not self.first <= offset < self.until:
            return ()
        return self.crashed if offset == self.first else self.crashed[:1]


def find_suspects(text: str, process: str) -> SuspectRange | None:
    """Return the records that `process` must suspect when it takes over a partition with this note."""
    note = CrashNote.parse(text)
    if note is None or note.until <= note.first:
        return None
    ended = (*note.crashed, note.holder) if note.open else note.crashed
    crashed = tuple(dict.fromkeys(each for each in ended if each != process))
    return SuspectRange(note.first, note.until, crashed) if crashed else None
