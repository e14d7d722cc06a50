"""Finds the record that kills its worker, by what dying workers leave behind: the note beside a committed offset.

Before a worker begins with records it writes how far its hands reach, with an *open* note beside the offset that it
commits; when it leaves in good order it writes a *closed* one. Who takes over and finds an open note knows that
somebody died with those records in hand. Each of them is then processed alone in the worker; before it begins, the
number of deaths it has been present at is written into the note. A record that has been present at three deaths is not
tried again: it becomes a dead letter.

Kept in the group's own offsets, the count survives whatever happens to the worker, its disk and its pod.
"""

import re
from dataclasses import dataclass
from typing import Self

from scorer.stream.broker import Position

MAX_DEATHS = 3
_NOTE = re.compile(r"(open|closed) until=(\d{1,19}) deaths=(\d{1,9})")


@dataclass(frozen=True, slots=True)
class Note:
    """What stands beside a committed offset.

    Attributes:
        open: a worker has the records from that offset up to `until` in hand.
        until: one past the last of them.
        deaths: at how many deaths the record at the offset was present.
    """

    open: bool
    until: int
    deaths: int = 0

    def __str__(self) -> str:
        return f"{'open' if self.open else 'closed'} until={self.until} deaths={self.deaths}"

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Read a note; one of another making says nothing."""
        match = _NOTE.fullmatch(text)
        return cls(match[1] == "open", int(match[2]), int(match[3])) if match else None


@dataclass(frozen=True, slots=True)
class Suspects:
    """The records of one partition that must be processed alone: `first` was present at `deaths`, others at one."""

    first: int
    until: int
    deaths: int

    def deaths_of(self, offset: int) -> int:
        """Return how many deaths the record at `offset` was present at, 0 if it is no suspect."""
        if offset >= self.until:
            return 0
        return self.deaths if offset <= self.first else 1


def find_suspects(position: Position | None) -> Suspects | None:
    """Return whom to suspect on taking over a partition."""
    note = Note.parse(position.note) if position else None
    if position is None or note is None or note.until <= position.offset:
        return None
    deaths = note.deaths + note.open
    return Suspects(position.offset, note.until, deaths) if deaths else None
