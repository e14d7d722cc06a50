"""Records that were received and not begun, and whose turn it is where some of them are suspects.

A suspect is processed alone in the worker: only so does a death say which record it is the doing of. Between two
suspects all other partitions have a turn, in batches, with what they have waiting. So a partition without suspects
waits for one record of another one at most, and a suspect for at most one budget of others. The partitions with
suspects take turns among themselves.
"""

from collections import deque
from collections.abc import Collection, Sequence

from scorer.stream.broker import Place
from scorer.stream.crash_notes import Suspects
from scorer.stream.ledger import Reach, Ticket


class Turns:
    """Used by one thread, the poller's."""

    def __init__(self) -> None:
        self._waiting: deque[Ticket] = deque()
        self._suspects: dict[Place, Suspects] = {}
        self._order: dict[Place, int] = {}  # when each partition had its last turn alone
        self._turn = 0

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def suspected(self) -> Collection[Place]:
        """The partitions with records that are to be processed alone, received or not."""
        return self._suspects.keys()

    def suspect(self, place: Place, suspects: Suspects) -> None:
        """Process these records of a partition alone."""
        self._suspects[place] = suspects

    def add(self, ticket: Ticket) -> None:
        """Note a record that was received."""
        self._waiting.append(ticket)

    def forget(self, places: Collection[Place]) -> list[Ticket]:
        """Return the records of partitions that wait; they wait no more."""
        gone = [ticket for ticket in self._waiting if ticket.record.place in places]
        self._waiting = deque(ticket for ticket in self._waiting if ticket.record.place not in places)
        return gone

    def let_go(self, place: Place) -> None:
        """Forget whom to suspect in a partition."""
        self._suspects.pop(place, None)

    def caught_up(self, place: Place) -> None:
        """Take note that the broker has no more records of a partition: those to come were in nobody's hands."""
        if not any(ticket.record.place == place for ticket in self._waiting):
            self.let_go(place)

    def dead_with(self, place: Place, offset: int) -> tuple[str, ...]:
        """Return the processes that ended with a record in hand."""
        return self._suspects[place].dead_with(offset) if place in self._suspects else ()

    def left_of(self, place: Place, offset: int) -> Reach:
        """Return the records of a suspected partition from `offset` on that are still suspects."""
        suspects = self._suspects[place]
        return Reach(max(offset, suspects.first), max(offset, suspects.until))

    def sort(self) -> tuple[Sequence[Ticket], dict[Place, Ticket]]:
        """Return the records that may share the worker, and the next one of each partition whose next is a suspect."""
        others: list[Ticket] = []
        next_alone: dict[Place, Ticket] = {}
        for ticket in self._waiting:
            place, offset = ticket.record.place, ticket.record.offset
            if place in next_alone:
                continue  # behind a suspect
            if place in self._suspects and offset >= self._suspects[place].until:
                del self._suspects[place]
            if self.dead_with(place, offset):
                next_alone[place] = ticket
            else:
                others.append(ticket)
        return others, next_alone

    def begin(self, ticket: Ticket) -> None:
        """Note that a record waits no more."""
        self._waiting.remove(ticket)

    def begin_alone(self, ticket: Ticket) -> None:
        """Note that a record waits no more, and that its partition had its turn."""
        self.begin(ticket)
        self._turn += 1
        self._order[ticket.record.place] = self._turn

    def choose(self, next_alone: dict[Place, Ticket]) -> Ticket:
        """Return the one whose partition's last turn was the longest ago."""
        return next_alone[min(next_alone, key=lambda place: self._order.get(place, 0))]
