"""A shard that a process works on: its claim, its rows so far, and its images in the pipeline."""

import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime

from ingest.reasons import Unscorable
from scorer.archive.claims import Claim
from scorer.archive.items import Item, Shard
from scorer.archive.marks import CommitMark
from scorer.archive.output import ShardOutput


class ShardWork:
    """One claimed shard.

    Args:
        shard: its description in the plan.
        claim: held until the shard is committed or released.
        before: its mark, where only `selected` images are retried.
        selected: positions of images; None means all.

    Attributes:
        abandoned: its tar or manifest cannot be read now; the shard will not be committed.
        output: the rows, in order.
        started_at: when the work began.
    """

    def __init__(
        self, shard: Shard, claim: Claim, before: CommitMark | None = None, selected: frozenset[int] | None = None
    ) -> None:
        self.shard, self.claim, self.before = shard, claim, before
        self.output = ShardOutput(shard.index)
        self.started_at = datetime.now(UTC)
        self.abandoned = False
        self._selected = selected
        self._lock = threading.Lock()
        self._first_image_s: float | None = None
        self._received = 0
        self._expected: int | None = None

    def includes(self, position: int) -> bool:
        """Return whether an image is to be scored."""
        return self._selected is None or position in self._selected

    def is_overdue(self, limit_s: float | None) -> bool:
        """Return whether `limit_s` has passed since the first image began."""
        with self._lock:
            now_s = time.monotonic()
            self._first_image_s = self._first_image_s or now_s
            return limit_s is not None and now_s - self._first_image_s > limit_s

    def end(self, expected: int) -> bool:
        """Set how many results are expected; return whether all are received."""
        with self._lock:
            self._expected = expected
            return self._received == expected

    def receive(self) -> bool:
        """Count a received result; return whether it was the last."""
        with self._lock:
            self._received += 1
            return self._received == self._expected


@dataclass(slots=True, eq=False)
class Task:
    """One image in the pipeline.

    Attributes:
        refusal: why it is not decoded at all.
        unavailable: its bytes could not be read, or not in time.
        refused: they could not be read because the store refuses this machine.
        read_s: seconds that reading took.
    """

    work: ShardWork
    position: int
    item: Item
    refusal: Unscorable | None = None
    unavailable: bool = False
    refused: bool = False
    read_s: float = 0.0
