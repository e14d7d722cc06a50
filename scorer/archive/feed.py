"""Claims the shards of this process and feeds their images to a scan's pipeline, one after the other."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from ingest.reasons import Reason, Unscorable
from scorer.archive.claims import Claim, find_suspects
from scorer.archive.commit import read_errors, select_retryable
from scorer.archive.items import Item, ScanPlan
from scorer.archive.left_out import LeftOut
from scorer.archive.marks import needs_work, read_mark
from scorer.archive.shard_work import ShardWork, Task
from scorer.errors import ArchiveUnavailable, PayloadRefused, PayloadUnavailable, SourceDamaged

OUTAGE_SHARDS = 3
KILLS_WORKER = Unscorable(Reason.KILLS_WORKER, "the process crashed each time it began this image")


class Feeder:
    """Owns the claims on shards from start to end; `feed` runs in the pipeline's thread.

    Args:
        folder: the run's folder.
        plan: the shards and images.
        on_complete: is called with a shard whose results were all received before `feed` reached its end.

    Attributes:
        suspects: shards whose images must be scored one at a time.
        unreadable: why shards could not be read.
        refused: a store refused this machine, which a retry does not change.
    """

    def __init__(self, folder: Path, plan: ScanPlan, on_complete: Callable[[ShardWork], object]) -> None:
        self._folder, self._plan, self._on_complete = folder, plan, on_complete
        self._claimed: set[ShardWork] = set()
        self.suspects = find_suspects(folder / "_attempts")
        self.unreadable: list[str] = []
        self.refused = False
        self._stopped = False

    def stop(self) -> None:
        """Begin no further shard."""
        self._stopped = True

    def finish(self, work: ShardWork) -> None:
        """Remove the claim on a committed shard."""
        work.claim.finish()
        self._claimed.discard(work)

    def release_claims(self) -> None:
        """Release the claims on all shards that are not committed."""
        for work in list(self._claimed):
            with suppress(OSError):  # the error that ended the scan must reach the caller
                work.claim.release()

    def feed(
        self, shards: Sequence[int], slot: threading.Semaphore | None = None, *, retry_failed: bool = False
    ) -> Iterator[Task]:
        """Yield the images of `shards` that are to be scored.

        Args:
            shards: their indexes. Suspects are skipped without a slot.
            slot: for suspects; an image is noted and yielded once the slot is free, so that no other is in flight.
            retry_failed: yield the images of committed shards that a retry may score, too.

        Raises:
            ArchiveUnavailable: several shards cannot be read.
            PayloadRefused: several shards cannot be read, and a store refuses this machine.
            SourceChanged: a tar or manifest has changed since the run was planned.
        """
        for index in shards:
            if self._stopped:
                return
            if slot is None and index in self.suspects:
                continue
            if work := self._claim(index, alone=slot is not None, retry_failed=retry_failed):
                try:
                    yield from self._feed_shard(work, slot)
                except PayloadUnavailable as error:
                    self._abandon(work, error)

    def _feed_shard(self, work: ShardWork, slot: threading.Semaphore | None) -> Iterator[Task]:
        expected = 0
        for position, item, damage in self._read_items(work):
            if not work.includes(position):
                continue
            refusal = KILLS_WORKER if work.claim.must_skip(position) else damage
            if slot:
                slot.acquire()
                work.claim.note(None if refusal else position)
            expected += 1
            yield Task(work, position, item, refusal)
        if work.end(expected):
            self._on_complete(work)

    def _read_items(self, work: ShardWork) -> Iterator[tuple[int, Item, Unscorable | None]]:
        shard, left_out = work.shard, work.output.left_out
        position = -1
        try:
            for position, item in enumerate(self._plan.read_items(shard, left_out)):
                yield position, item, None
            if position < 0:
                left_out[LeftOut.EMPTY_CONTAINER] += 1
        except SourceDamaged as error:  # one row stands for the rest, whose number is unknown
            rest = Item(content_id=shard.uri, source=shard.uri.rpartition("/")[2], uri=shard.uri)
            yield position + 1, rest, Unscorable(Reason.TRUNCATED, str(error))

    def _abandon(self, work: ShardWork, error: PayloadUnavailable) -> None:
        work.abandoned = True
        self.unreadable.append(str(error))
        self.refused = self.refused or isinstance(error, PayloadRefused)
        if len(self.unreadable) >= OUTAGE_SHARDS:
            message = f"{error}; {len(self.unreadable)} shards cannot be read: run the same command again"
            raise (PayloadRefused if self.refused else ArchiveUnavailable)(message) from error

    def _claim(self, index: int, *, alone: bool, retry_failed: bool) -> ShardWork | None:
        if not needs_work(read_mark(self._folder, index), retry_failed=retry_failed):
            return None
        claim = Claim.acquire(self._folder / "_attempts", index)
        if claim is None:
            return None  # another process works on it
        mark = read_mark(self._folder, index)  # again, now that no other process changes it
        if not needs_work(mark, retry_failed=retry_failed):
            claim.finish()
            return None
        if claim.suspect and not alone:  # its process crashed after this scan began
            claim.release()
            self.suspects.add(index)
            return None
        selected = select_retryable(read_errors(self._folder, mark)) if mark else None
        work = ShardWork(self._plan.read_shard(index), claim, mark, selected)
        self._claimed.add(work)
        return work
