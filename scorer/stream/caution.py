"""Finds the record that kills its worker, by what dying workers leave behind: a note for each partition.

Before a worker begins with records it writes how far its hands reach into an *open* note; when it leaves in good order
it writes a *closed* one. Who takes over and finds an open note knows that somebody died with those records in hand.
Each of them is then processed alone in the worker; before it begins, the number of deaths it has been present at is
written into the note, and when it is done, that it is done. A record that has been present at three deaths is not
tried again: it becomes a dead letter.

Kept by the broker, the count survives whatever happens to the worker, its disk and its pod. It is kept beside the
group's offsets and not with them, because those cannot be committed while the group rebalances: records that were done
long ago would then be blamed for the deaths of workers that are killed again and again.
"""

import re
from dataclasses import dataclass
from typing import Self

MAX_DEATHS = 3
_NOTE = re.compile(r"(open|closed) first=(\d{1,19}) until=(\d{1,19}) deaths=(\d{1,9})")


@dataclass(frozen=True, slots=True)
class Note:
    """What is known of the records from offset `first` up to `until`, which is one past the last.

    Attributes:
        open: a worker has them in hand.
        deaths: at how many deaths the first one was present, that of this worker not counted.
    """

    open: bool
    first: int
    until: int
    deaths: int = 0

    def __str__(self) -> str:
        return f"{'open' if self.open else 'closed'} first={self.first} until={self.until} deaths={self.deaths}"

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Read a note; one of another making says nothing."""
        match = _NOTE.fullmatch(text)
        return cls(match[1] == "open", *map(int, match.groups()[1:])) if match else None


@dataclass(frozen=True, slots=True)
class Suspects:
    """The records of one partition that must be processed alone: `first` was present at `deaths`, others at one."""

    first: int
    until: int
    deaths: int

    def deaths_of(self, offset: int) -> int:
        """Return how many deaths the record at `offset` was present at, 0 if it is no suspect."""
        if not self.first <= offset < self.until:
            return 0
        return self.deaths if offset == self.first else 1


def find_suspects(text: str) -> Suspects | None:
    """Return whom to suspect on taking over a partition with this note."""
    note = Note.parse(text)
    if note is None or note.until <= note.first:
        return None
    deaths = note.deaths + note.open
    return Suspects(note.first, note.until, deaths) if deaths else None
