"""The scan itself: shards of a plan in, committed shards out, with reading, scoring and writing overlapped.

The feeder runs ahead over shard boundaries, so nothing drains at a shard's end; one thread writes and commits. Shards
whose process was killed repeatedly come last and one image at a time (`scorer.archive.claims`).
"""

import errno
import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from ingest.image_metadata import read_image_metadata
from ingest.reasons import Reason, Unscorable
from scorer.archive.commit import commit_shard
from scorer.archive.feed import Feeder
from scorer.archive.items import Item, ScanPlan
from scorer.archive.marks import CommitMark
from scorer.archive.shard_work import ShardWork, Task
from scorer.errors import ArchiveUnavailable, CannotCommit, PayloadRefused, PayloadUnavailable, ScanInterrupted
from scorer.local_scorer import LocalScorer
from scorer.locate import LocatedImage, refuse
from scorer.messages import ImageSource, ScoreRequest
from scorer.pipeline import Done, Overdue, PipelineStopped, ScoringPipeline, TimeLimit

OUTAGE_ITEMS = 100  # in a row that could not be had: an outage is not an answer
COMMITS_WAITING = 2


@dataclass(frozen=True, slots=True)
class TimeLimits:
    """Time limits in seconds; None is none."""

    item_s: float | None = 60.0
    shard_s: float | None = None


DEFAULT_TIME_LIMITS = TimeLimits()


@dataclass(frozen=True, slots=True)
class ScanProgress:
    """What a scan has done so far: counts as `CommitMark` has them, and seconds that each stage was busy."""

    counts: Counter[str] = field(default_factory=Counter)
    stage_s: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))


class Scan:
    """Scans shards of one run in this process; one call of `run` each.

    Args:
        folder: the run's.
        plan: what there is to scan.
        scorer: the engine.
        read: returns an item's bytes; raises `Unscorable` or `PayloadUnavailable`, the latter within the item's limit.
        limits: of time.
        on_advance: told of each image, in the calling thread.

    Attributes:
        progress: what it has done so far.
    """

    def __init__(  # noqa: PLR0913 - one parameter per collaborator
        self,
        folder: Path,
        plan: ScanPlan,
        scorer: LocalScorer,
        read: Callable[[Item], bytes],
        *,
        limits: TimeLimits = DEFAULT_TIME_LIMITS,
        on_advance: Callable[[ScanProgress], object] = lambda _: None,
    ) -> None:
        self._folder, self._plan, self._scorer, self._read, self._limits = folder, plan, scorer, read, limits
        self._on_advance = on_advance
        self.progress = ScanProgress()
        self._stopping = False
        self._pipeline: ScoringPipeline[Task] | None = None
        self._in_hand: set[ShardWork] = set()
        self._commits: deque[Future[CommitMark]] = deque()
        self._unavailable_in_a_row = 0
        self._writer = ThreadPoolExecutor(1, "commit")

    def stop(self) -> None:
        """End after the batch in hand with `ScanInterrupted`; may be called by a signal's handler."""
        self._stopping = True
        if self._pipeline:
            self._pipeline.stop()

    def run(self, shards: Sequence[int], *, retry_failed: bool = False) -> None:
        """Scan `shards`, those left out that are committed or in another process's hands.

        Args:
            shards: their indexes, ascending.
            retry_failed: score the images again that could not be read or not in time, of committed shards.

        Raises:
            Interrupted: `stop` was called.
            Outage: the archive cannot be read now.
            PayloadRefused: a store does not let this machine in.
            CannotCommit: the disk is full, among others.
            SourceChanged: a tar or manifest is not what it was when the run was planned.
            RunBroken: a commit mark cannot be understood.
        """
        feeder = Feeder(self._folder, self._plan, self._commit, retry_failed=retry_failed)
        self._in_hand = feeder.in_hand
        try:
            self._drive(feeder, shards)
            for shard in sorted(feeder.suspects.intersection(shards)):
                self._drive(feeder, [shard], alone=True)
        except PipelineStopped:
            message = "stopped; every shard is committed whole or not at all: the same command goes on"
            raise ScanInterrupted(message) from None
        except Overdue as error:
            message = f"{error}: when the archive can be read again, run the same command again"
            raise ArchiveUnavailable(message) from error
        finally:
            feeder.end()
            self._writer.shutdown(wait=True)
            for work in list(self._in_hand):
                with suppress(OSError):  # what ended the run matters more than a note about it
                    work.claim.release()
        if feeder.unreadable:
            message = (
                f"{len(feeder.unreadable)} shards cannot be read now ({feeder.unreadable[0]}); all others are "
                "committed: run the same command again"
            )
            raise (PayloadRefused if feeder.refused else ArchiveUnavailable)(message)

    def _drive(self, feeder: Feeder, shards: Sequence[int], *, alone: bool = False) -> None:
        limit = TimeLimit(self._limits.item_s, self._give_up) if self._limits.item_s else None
        self._pipeline = self._scorer.open_pipeline(self._locate, limit, batch_images=1 if alone else None)
        if self._stopping:
            self._pipeline.stop()
        gate = threading.Semaphore(1) if alone else None
        try:
            for done in self._pipeline.run(feeder.feed(shards, gate)):
                self._receive(done)
                if gate:
                    gate.release()
        finally:
            if gate:
                gate.release()
        while self._commits:
            self._commits.popleft().result()

    def _locate(self, task: Task) -> LocatedImage:
        request = make_request(task.item)
        if task.refusal:
            return refuse(request, task.refusal)
        if task.work.is_overdue(self._limits.shard_s):
            why = f"its shard took more than {self._limits.shard_s:g} s"
            return refuse(request, Unscorable(Reason.TIMED_OUT, why))
        started_s = time.perf_counter()
        try:
            data = self._read(task.item)
        except Unscorable as failure:
            return refuse(request, failure)
        except PayloadUnavailable as error:
            task.unavailable, task.refused = True, isinstance(error, PayloadRefused)
            return refuse(request, Unscorable(Reason.UNREADABLE, str(error)))
        finally:
            task.read_s = time.perf_counter() - started_s
        image = self._scorer.locate(request, data)
        if image.info:
            task.image_metadata = read_image_metadata(data, image.info)
        return image

    def _give_up(self, task: Task) -> LocatedImage:
        task.unavailable = True
        why = f"not read and located within {self._limits.item_s:g} s"
        return refuse(make_request(task.item), Unscorable(Reason.TIMED_OUT, why))

    def _receive(self, done: Done[Task]) -> None:
        task, work = done.task, done.task.work
        self._unavailable_in_a_row = self._unavailable_in_a_row + 1 if task.unavailable else 0
        if self._unavailable_in_a_row >= OUTAGE_ITEMS:
            message = (
                f"{OUTAGE_ITEMS} images in a row could not be read ({done.result.detail}): when the archive is there "
                "again, run the same command again"
            )
            raise (PayloadRefused if task.refused else ArchiveUnavailable)(message)
        while self._commits and (self._commits[0].done() or len(self._commits) > COMMITS_WAITING):
            self._commits.popleft().result()
        if work.abandoned:
            return
        counted = work.output.add(task.position, task.item, done.result, task.image_metadata)
        self.progress.counts.update(counted)
        for stage, seconds in (("read", task.read_s), ("locate", done.image.locate_ms / 1000), ("score", done.score_s)):
            work.output.stage_s[stage] += seconds
            self.progress.stage_s[stage] += seconds
        self._on_advance(self.progress)
        if work.receive():
            self._commit(work)

    def _commit(self, work: ShardWork) -> None:
        self._commits.append(self._writer.submit(self._publish, work))

    def _publish(self, work: ShardWork) -> CommitMark:
        try:
            mark = commit_shard(
                self._folder,
                work.output,
                work.before,
                started_at=work.started_at,
                bundle_digest=self._scorer.bundle.model.digest,
            )
            work.claim.finish()
        except OSError as error:
            mend = "make room" if error.errno in {errno.ENOSPC, errno.EDQUOT} else "mend that"
            message = (
                f"{self._folder}: shard {work.shard.index} cannot be written ({error.strerror or error}) and is not "
                f"committed; {mend} and run the same command again"
            )
            raise CannotCommit(message) from error
        self._in_hand.discard(work)
        earlier_s = work.before.stage_s["write"] if work.before else 0.0
        self.progress.stage_s["write"] += mark.stage_s["write"] - earlier_s
        return mark


def make_request(item: Item) -> ScoreRequest:
    """Return the request that scores an item."""
    return ScoreRequest(
        request_id=item.content_id, content_id=item.content_id, image=ImageSource(uri=item.uri), faces=item.faces
    )
