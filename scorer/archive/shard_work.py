"""A shard while it is worked on: its claim, its rows so far, and the images that go through the pipeline."""

import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime

from ingest.image_metadata import ImageMetadata
from ingest.reasons import Unscorable
from scorer.archive.claims import Claim
from scorer.archive.items import Item, Shard
from scorer.archive.marks import CommitMark
from scorer.archive.output import ShardOutput

UNKNOWN = ImageMetadata()


class ShardWork:
    """One shard in hand.

    Args:
        shard: what the plan says of it.
        claim: held until it is committed or given back.
        before: its mark, where only `wanted` is tried again.
        wanted: positions of images; None means all.

    Attributes:
        abandoned: its tar or manifest cannot be read now; nothing of it will be committed.
        output: the rows, in order.
        started_at: when it was begun.
    """

    def __init__(
        self, shard: Shard, claim: Claim, before: CommitMark | None = None, wanted: frozenset[int] | None = None
    ) -> None:
        self.shard, self.claim, self.before = shard, claim, before
        self.output = ShardOutput(shard.index)
        self.started_at = datetime.now(UTC)
        self.abandoned = False
        self._wanted = wanted
        self._lock = threading.Lock()
        self._begun_s: float | None = None
        self._received = 0
        self._expected: int | None = None

    def wants(self, position: int) -> bool:
        """Return whether an image is to be scored."""
        return self._wanted is None or position in self._wanted

    def is_overdue(self, limit_s: float | None) -> bool:
        """Return whether `limit_s` has passed since the first image was begun."""
        with self._lock:
            now_s = time.monotonic()
            self._begun_s = self._begun_s or now_s
            return limit_s is not None and now_s - self._begun_s > limit_s

    def end(self, expected: int) -> bool:
        """Say how many images there were to score; return whether all are answered."""
        with self._lock:
            self._expected = expected
            return self._received == expected

    def receive(self) -> bool:
        """Count an answered image; return whether that was the last."""
        with self._lock:
            self._received += 1
            return self._received == self._expected


@dataclass(slots=True, eq=False)
class Task:
    """One image on its way through the pipeline.

    Attributes:
        refusal: why it is not even tried.
        unavailable: its bytes could not be had, or not in time.
        refused: because the store does not let this machine in.
        read_s: seconds that reading took.
        traces: what the image's headers say of its past.
    """

    work: ShardWork
    position: int
    item: Item
    refusal: Unscorable | None = None
    unavailable: bool = False
    refused: bool = False
    read_s: float = 0.0
    image_metadata: ImageMetadata = UNKNOWN
