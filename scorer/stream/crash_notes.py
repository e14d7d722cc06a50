"""Finds the record that kills its worker, by what dying workers leave behind: a note for each partition.

Before a worker begins with records it writes how far its hands reach into an *open* note; when it leaves in good order
it writes a *closed* one. Who takes over and finds the open note of another process knows that this process ended with
those records in hand. Each of them is then processed alone in the worker; before it begins, the processes that ended
with it are written into the note, and when it is done, that it is done. A record that three processes ended with is not
tried again: it becomes a dead letter.

Processes are counted, not takeovers: a process that was paused loses its partitions and finds its own note when it
comes back, and what it finds there of itself is no death. Another worker that takes over from it meanwhile cannot know
that it lives, and counts it once.

An end counts unless its cause is known and lies in no record; the worker then closes its notes before it goes:

    no death   SIGTERM (exit code 0); another engine, or no decoding process can be started (65); damaged or missing
               GPU hardware (71); Triton or a broker away, a transaction that the broker does not end (75); a broker's
               refusal or an operator's mistake (78)
    a death    a signal (SIGKILL, lack of memory, abort); an exception that nobody foresaw (70), an OSError among them
               (75), because decoders raise it of what they read; a fault of a GPU's kernel (71); SIGTERM where nothing
               that was begun came to an end within the drain, although neither broker nor engine was waited for: a
               record may have stalled it

A broker that cannot be reached keeps no note: then the end counts, whatever its cause.

A note never passes an offset that is not committed. Otherwise its reader would begin with records that the note does
not name, and a record before its range could kill workers for ever without being counted.

Kept by the broker, the count survives whatever happens to the worker, its disk and its pod. It is kept beside the
group's offsets and not with them, because those cannot be committed while the group rebalances.
"""

import re
from dataclasses import dataclass
from typing import Self
from uuid import uuid4

MAX_CRASHES = 3
_PROCESS = "[0-9a-f]{12}"
_DEAD = rf"(?:{_PROCESS}(?:,{_PROCESS}){{0,99}})?"
_NOTE = re.compile(rf"(open|closed) first=(\d{{1,19}}) until=(\d{{1,19}}) holder=({_PROCESS}) dead=({_DEAD})")


def new_process() -> str:
    """Return a name for this process that no other has."""
    return uuid4().hex[:12]


@dataclass(frozen=True, slots=True)
class CrashNote:
    """What is known of the records from offset `first` up to `until`, which is one past the last.

    Attributes:
        open: a worker has them in hand.
        holder: the process that wrote this.
        dead: the processes that ended with the first record in hand, the holder not among them.
    """

    open: bool
    first: int
    until: int
    holder: str
    dead: tuple[str, ...] = ()

    def __str__(self) -> str:
        state = "open" if self.open else "closed"
        return f"{state} first={self.first} until={self.until} holder={self.holder} dead={','.join(self.dead)}"

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Read a note; one of another making says nothing."""
        match = _NOTE.fullmatch(text)
        if match is None:
            return None
        state, first, until, holder, dead = match.groups()
        return cls(state == "open", int(first), int(until), holder, tuple(dead.split(",")) if dead else ())


@dataclass(frozen=True, slots=True)
class SuspectRange:
    """The records of one partition that must be processed alone.

    Attributes:
        dead: the processes that ended with the first record in hand; the others were in the hands of the first of them.
    """

    first: int
    until: int
    dead: tuple[str, ...]

    def crashed_with(self, offset: int) -> tuple[str, ...]:
        """Return the processes that ended with the record at `offset` in hand; none if it is no suspect."""
        if not self.first <= offset < self.until:
            return ()
        return self.dead if offset == self.first else self.dead[:1]


def find_suspects(text: str, process: str) -> SuspectRange | None:
    """Return whom `process` is to suspect on taking over a partition with this note."""
    note = CrashNote.parse(text)
    if note is None or note.until <= note.first:
        return None
    ended = (*note.dead, note.holder) if note.open else note.dead
    dead = tuple(dict.fromkeys(each for each in ended if each != process))
    return SuspectRange(note.first, note.until, dead) if dead else None
