"""Collects located images until a batch is full, large or old enough to be scored."""

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Batcher(Generic[Item]):
    """Thread-safe: any thread adds items, scoring threads take batches.

    A batch contains at most `max_items` and, unless a single item is larger, at most `max_bytes`. Its oldest item
    waits at most `max_age_s` for others while a scoring thread is free.
    """

    def __init__(
        self, max_items: int, max_bytes: int, max_age_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._max_items, self._max_bytes, self._max_age_s = max_items, max_bytes, max_age_s
        self._clock = clock
        self._items: list[tuple[Item, int, float]] = []  # with their sizes and arrival times
        self._full = False
        self._bytes = 0
        self._closed = False
        self._changed = threading.Condition()

    def add(self, item: Item, size: int, *, full: bool = False) -> None:
        """Add an item of `size` bytes; `full` releases the batch at once."""
        with self._changed:
            self._items.append((item, size, self._clock()))
            self._full = self._full or full
            self._bytes += size
            self._changed.notify()

    def close(self) -> None:
        """Release the waiting threads; remaining items are discarded."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def take(self) -> list[tuple[Item, float]]:
        """Wait for a batch; return its items with the seconds that each has waited, or nothing once closed."""
        with self._changed:
            while not self._closed:
                if self._items:
                    now = self._clock()
                    left_s = self._items[0][2] + self._max_age_s - now
                    if (
                        self._full
                        or left_s <= 0
                        or len(self._items) >= self._max_items
                        or self._bytes >= self._max_bytes
                    ):
                        return self._take_batch(now)
                    self._changed.wait(left_s)
                else:
                    self._changed.wait()
            return []

    def _take_batch(self, now: float) -> list[tuple[Item, float]]:
        count, size = 0, 0
        for _, item_size, _ in self._items[: self._max_items]:
            if count and size + item_size > self._max_bytes:
                break
            count, size = count + 1, size + item_size
        batch, self._items = self._items[:count], self._items[count:]
        self._bytes -= size
        self._full = False
        if self._items:
            self._changed.notify()
        return [(item, now - since) for item, _, since in batch]
