"""How much may be in flight: the images and bytes of all requests. What does not fit is refused at once."""

import math
import threading
import time
from collections.abc import Callable

MAX_RETRY_S = 60
_WEIGHT = 0.1  # of the newest image in the mean


class Overloaded(Exception):
    """There is no room for an image; `retry_after_s` is about the time that the images in flight take."""

    def __init__(self, retry_after_s: int) -> None:
        super().__init__("too many images or bytes are in flight")
        self.retry_after_s = retry_after_s


class Admission:
    """The images and bytes in flight; thread-safe.

    Attributes:
        images, bytes: now in flight.
    """

    def __init__(self, max_images: int, max_bytes: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_images, self._max_bytes, self._clock = max_images, max_bytes, clock
        self._lock = threading.Lock()
        self._mean_s = 0.0
        self.images = self.bytes = 0

    def admit(self, size: int) -> "Ticket":
        """Return the ticket of an image of `size` bytes; release it when the image is answered.

        Raises:
            Overloaded: there is no room.
        """
        with self._lock:
            if self.images >= self._max_images:
                raise self._refuse()
            self._require_bytes(size, self.bytes)
            self.images += 1
            self.bytes += size
        return Ticket(self, size, self._clock())

    def resize(self, ticket: "Ticket", size: int) -> None:
        """Change the bytes of a ticket; see `Ticket.resize`."""
        with self._lock:
            if size > ticket.size:
                self._require_bytes(size, self.bytes - ticket.size)
            self.bytes += size - ticket.size
            ticket.size = size

    def release(self, ticket: "Ticket") -> None:
        """Remove a ticket; see `Ticket.release`."""
        with self._lock:
            if not ticket.released:
                ticket.released = True
                self.images -= 1
                self.bytes -= ticket.size
                self._mean_s += _WEIGHT * (self._clock() - ticket.since_s - self._mean_s)

    def _require_bytes(self, size: int, others: int) -> None:
        if others and others + size > self._max_bytes:  # an image alone always fits, or it would never be scored
            raise self._refuse()

    def _refuse(self) -> Overloaded:
        """Return the refusal; an image takes as long as the queue in front of it, so the mean is the time to wait."""
        return Overloaded(max(1, min(MAX_RETRY_S, math.ceil(self._mean_s))))


class Ticket:
    """The share of one image in what is in flight."""

    def __init__(self, admission: Admission, size: int, since_s: float) -> None:
        self._admission, self.size, self.since_s, self.released = admission, size, since_s, False

    def resize(self, size: int) -> None:
        """Set the bytes that the image holds.

        Raises:
            Overloaded: there is no room for so many; the ticket is unchanged.
        """
        self._admission.resize(self, size)

    def release(self) -> None:
        """Return the room; a second call has no effect."""
        self._admission.release(self)
