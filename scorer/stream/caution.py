"""Finds the record that kills its worker, by what dying workers leave behind: the note beside a committed offset.

A worker that holds a partition commits with an *open* note, one that leaves in good order with a *closed* one. Who
takes over and finds an open note knows that somebody died with records from that offset on in hand. Each of these
is then processed alone in the worker; before it begins, the number of deaths it has been present at is written into
the note. A record that has been present at three deaths is not tried again: it becomes a dead letter.

Kept in the group's own offsets, the count survives whatever happens to the worker, its disk and its pod, and costs
nothing while nobody dies.
"""

import re
from dataclasses import dataclass
from typing import Self

from scorer.stream.broker import Position

MAX_DEATHS = 3
_NOTE = re.compile(r"(open|closed) deaths=(\d{1,9})")


@dataclass(frozen=True, slots=True)
class Note:
    """What stands beside a committed offset: is a worker at it, and at how many deaths was its record present?"""

    open: bool
    deaths: int = 0

    def __str__(self) -> str:
        return f"{'open' if self.open else 'closed'} deaths={self.deaths}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a note; one of another making says nothing."""
        match = _NOTE.fullmatch(text)
        return cls(match[1] == "open", int(match[2])) if match else cls(open=False)


@dataclass(slots=True)
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


def find_suspects(position: Position | None, window: int) -> Suspects | None:
    """Return whom to suspect on taking over a partition; `window` is how many records a worker may have in hand."""
    if position is None:
        return None
    note = Note.parse(position.note)
    if note.open:
        return Suspects(position.offset, position.offset + window, note.deaths + 1)
    return Suspects(position.offset, position.offset + 1, note.deaths) if note.deaths else None
