"""Which shards this process takes, and their images one after the other: the head of a scan's pipeline."""

import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from ingest.reasons import Reason, Unscorable
from scorer.archive.claims import Claim, find_suspects
from scorer.archive.commit import read_errors, select_retryable
from scorer.archive.items import Item, ScanPlan
from scorer.archive.left_out import LeftOut
from scorer.archive.marks import CommitMark, read_mark
from scorer.archive.shard_work import ShardWork, Task
from scorer.errors import ArchiveUnavailable, PayloadRefused, PayloadUnavailable, SourceDamaged

OUTAGE_SHARDS = 3
KILLS_WORKER = Unscorable(Reason.KILLS_WORKER, "the process died whenever it began this image")


class Feeder:
    """Feeds a pipeline, in the pipeline's thread.

    Args:
        folder: the run's.
        plan: what there is to scan.
        retry_failed: of committed shards, the images that another try may score; else only what is not committed.
        on_complete: told of a shard whose images were all answered before it ended.

    Attributes:
        in_hand: the shards that are neither committed nor given back.
        suspects: shards that have to be taken one image at a time.
        unreadable: why shards were left out.
        refused: one of them because the store does not let this machine in, which trying again does not change.
    """

    def __init__(
        self, folder: Path, plan: ScanPlan, on_complete: Callable[[ShardWork], object], *, retry_failed: bool
    ) -> None:
        self._folder, self._plan, self._on_complete, self._retry_failed = folder, plan, on_complete, retry_failed
        self.in_hand: set[ShardWork] = set()
        self.suspects = find_suspects(folder / "_attempts")
        self.unreadable: list[str] = []
        self.refused = False
        self._ended = False

    def end(self) -> None:
        """Begin no further shard."""
        self._ended = True

    def feed(self, shards: Sequence[int], gate: threading.Semaphore | None = None) -> Iterator[Task]:
        """Yield the images of `shards` that are to be scored.

        Args:
            shards: their indexes. Suspects are left out without a gate.
            gate: with one, an image is noted and yielded when the gate lets it through, which is when no other is
                in hand.

        Raises:
            Outage: shard after shard cannot be read.
            PayloadRefused: the same, and a store does not let this machine in.
            SourceChanged: a tar or manifest is not what it was when the run was planned.
        """
        for index in shards:
            if self._ended:
                return
            if (gate or index not in self.suspects) and (work := self._begin(index, alone=gate is not None)):
                try:
                    yield from self._feed_shard(work, gate)
                except PayloadUnavailable as error:
                    self._abandon(work, error)

    def _feed_shard(self, work: ShardWork, gate: threading.Semaphore | None) -> Iterator[Task]:
        expected = 0
        for position, item, damage in self._read_items(work):
            if not work.wants(position):
                continue
            refusal = KILLS_WORKER if work.claim.kills(position) else damage
            if gate:
                gate.acquire()
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
        except SourceDamaged as error:  # what came before holds; how many more there are, nobody can say
            stand_in = Item(content_id=shard.uri, source=shard.uri.rpartition("/")[2], uri=shard.uri)
            yield position + 1, stand_in, Unscorable(Reason.TRUNCATED, str(error))

    def _abandon(self, work: ShardWork, error: PayloadUnavailable) -> None:
        work.abandoned = True
        self.unreadable.append(str(error))
        self.refused = self.refused or isinstance(error, PayloadRefused)
        if len(self.unreadable) >= OUTAGE_SHARDS:
            message = f"{error}; {len(self.unreadable)} shards cannot be read: run the same command again"
            raise (PayloadRefused if self.refused else ArchiveUnavailable)(message) from error

    def _begin(self, index: int, *, alone: bool) -> ShardWork | None:
        if not self._is_due(read_mark(self._folder, index)):
            return None
        claim = Claim.take(self._folder / "_attempts", index)
        if claim is None:
            return None  # another process works on it
        mark = read_mark(self._folder, index)  # as it is now that nobody else changes it
        if not self._is_due(mark):
            claim.finish()
            return None
        if claim.suspect and not alone:  # its process died since this scan began
            claim.release()
            self.suspects.add(index)
            return None
        wanted = select_retryable(read_errors(self._folder, mark)) if mark else None
        work = ShardWork(self._plan.read_shard(index), claim, mark, wanted)
        self.in_hand.add(work)
        return work

    def _is_due(self, mark: CommitMark | None) -> bool:
        return mark is None or (self._retry_failed and mark.retryable > 0)
