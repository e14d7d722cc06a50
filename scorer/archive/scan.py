"""The scan: takes the shards of a plan and commits them, with reading, scoring and writing overlapped.

The feeder reads ahead across shard boundaries, so that no stage waits at a shard's end; one thread writes and commits.
Suspect shards, whose process crashed repeatedly, come last and one image at a time (`scorer.archive.claims`).
"""

import errno
import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

from ingest.reasons import Reason, Unscorable
from scorer.archive.commit import commit_shard
from scorer.archive.feed import Feeder
from scorer.archive.items import Item, ScanPlan
from scorer.archive.marks import CommitMark
from scorer.archive.shard_work import ShardWork, Task
from scorer.errors import ArchiveUnavailable, CannotCommit, PayloadRefused, PayloadUnavailable, ScanInterrupted
from scorer.local_scorer import LocalScorer
from scorer.locate import LocatedImage, make_failed_image
from scorer.messages import ImageSource, ScoreRequest
from scorer.pipeline import PipelineStopped, ScoredTask, ScoringPipeline, TimeLimit, TooManyHanging

OUTAGE_ITEMS = 100  # so many unreadable images in a row are an outage of the archive, not results
MAX_QUEUED_COMMITS = 2


@dataclass(frozen=True, slots=True)
class TimeLimits:
    """Time limits in seconds; None means no limit."""

    item_s: float | None = 60.0
    shard_s: float | None = None


DEFAULT_TIME_LIMITS = TimeLimits()


@dataclass(frozen=True, slots=True)
class ScanProgress:
    """What a scan has done so far: the counts of `CommitMark`, and the seconds that each stage was busy."""

    counts: Counter[str] = field(default_factory=Counter)
    stage_s: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))


class Scan:
    """Scans shards of one run in this process; `run` is called once.

    Args:
        folder: the run's folder.
        plan: the shards and images.
        scorer: scores the images.
        read: returns an item's bytes; raises `Unscorable` or `PayloadUnavailable`, the latter within the item's limit.
        limits: time limits.
        keep_features: write the features of the scored faces.
        on_advance: is called after each image, in the calling thread.

    Attributes:
        progress: what the scan has done so far.
    """

    def __init__(  # noqa: PLR0913 - one parameter per collaborator
        self,
        folder: Path,
        plan: ScanPlan,
        scorer: LocalScorer,
        read: Callable[[Item], bytes],
        *,
        limits: TimeLimits = DEFAULT_TIME_LIMITS,
        keep_features: bool = False,
        on_advance: Callable[[ScanProgress], object] = lambda _: None,
    ) -> None:
        self._folder, self._scorer, self._read, self._limits = folder, scorer, read, limits
        self._keep_features, self._on_advance = keep_features, on_advance
        self._feeder = Feeder(folder, plan, self._queue_commit)
        self.progress = ScanProgress()
        self._stopping = False
        self._pipeline: ScoringPipeline[Task] | None = None
        self._commits: deque[Future[CommitMark]] = deque()
        self._unavailable_in_a_row = 0
        self._writer = ThreadPoolExecutor(1, "commit")

    def stop(self) -> None:
        """Stop after the current batch, so that `run` raises `ScanInterrupted`; a signal handler may call this."""
        self._stopping = True
        if self._pipeline:
            self._pipeline.stop()

    def run(self, shards: Sequence[int], *, retry_failed: bool = False) -> None:
        """Scan `shards`, except those that are committed or claimed by another process.

        Args:
            shards: their indexes, ascending.
            retry_failed: of committed shards, score the images again that a retry may score.

        Raises:
            ScanInterrupted: `stop` was called.
            ArchiveUnavailable: the archive cannot be read now.
            PayloadRefused: a store refuses this machine.
            CannotCommit: for example, the disk is full.
            SourceChanged: a tar or manifest has changed since the run was planned.
            RunBroken: a commit mark is not valid.
        """
        feeder = self._feeder
        try:
            self._run_pipeline(shards, retry_failed=retry_failed)
            for shard in sorted(feeder.suspects.intersection(shards)):
                self._run_pipeline([shard], retry_failed=retry_failed, alone=True)
        except PipelineStopped:
            message = "stopped; every shard is committed whole or not at all: the same command resumes the run"
            raise ScanInterrupted(message) from None
        except TooManyHanging as error:
            message = f"{error}: run the same command again when the archive can be read"
            raise ArchiveUnavailable(message) from error
        finally:
            feeder.stop()
            self._writer.shutdown(wait=True)
            feeder.release_claims()
        if feeder.unreadable:
            message = (
                f"{len(feeder.unreadable)} shards cannot be read now ({feeder.unreadable[0]}); all others are "
                "committed: run the same command again"
            )
            raise (PayloadRefused if feeder.refused else ArchiveUnavailable)(message)

    def _run_pipeline(self, shards: Sequence[int], *, retry_failed: bool, alone: bool = False) -> None:
        limit = TimeLimit(self._limits.item_s, self._time_out) if self._limits.item_s else None
        self._pipeline = self._scorer.open_pipeline(self._locate, limit, batch_images=1 if alone else None)
        if self._stopping:
            self._pipeline.stop()
        slot = threading.Semaphore(1) if alone else None
        try:
            for done in self._pipeline.run(self._feeder.feed(shards, slot, retry_failed=retry_failed)):
                self._receive(done)
                if slot:
                    slot.release()
        finally:
            if slot:
                slot.release()
        while self._commits:
            self._commits.popleft().result()

    def _locate(self, task: Task) -> LocatedImage:
        request = make_request(task.item)
        if task.refusal:
            return make_failed_image(request, task.refusal)
        if task.work.is_overdue(self._limits.shard_s):
            why = f"its shard took more than {self._limits.shard_s:g} s"
            return make_failed_image(request, Unscorable(Reason.TIMED_OUT, why))
        started_s = time.perf_counter()
        try:
            data = self._read(task.item)
        except Unscorable as failure:
            return make_failed_image(request, failure)
        except PayloadUnavailable as error:
            task.unavailable, task.refused = True, isinstance(error, PayloadRefused)
            return make_failed_image(request, Unscorable(Reason.UNREADABLE, str(error)))
        finally:
            task.read_s = time.perf_counter() - started_s
        image = self._scorer.locate(request, data)
        return replace(image, features={}) if self._keep_features else image

    def _time_out(self, task: Task) -> LocatedImage:
        task.unavailable = True
        why = f"not read and located within {self._limits.item_s:g} s"
        return make_failed_image(make_request(task.item), Unscorable(Reason.TIMED_OUT, why))

    def _receive(self, done: ScoredTask[Task]) -> None:
        task, work = done.task, done.task.work
        self._unavailable_in_a_row = self._unavailable_in_a_row + 1 if task.unavailable else 0
        if self._unavailable_in_a_row >= OUTAGE_ITEMS:
            message = (
                f"{OUTAGE_ITEMS} images in a row could not be read ({done.result.detail}): run the same command again "
                "when the archive can be read"
            )
            raise (PayloadRefused if task.refused else ArchiveUnavailable)(message)
        while self._commits and (self._commits[0].done() or len(self._commits) > MAX_QUEUED_COMMITS):
            self._commits.popleft().result()
        if work.abandoned:
            return
        counted = work.output.add(task.position, task.item, done.result, done.image.features)
        self.progress.counts.update(counted)
        for stage, seconds in (("read", task.read_s), ("locate", done.image.locate_ms / 1000), ("score", done.score_s)):
            work.output.stage_s[stage] += seconds
            self.progress.stage_s[stage] += seconds
        self._on_advance(self.progress)
        if work.receive():
            self._queue_commit(work)

    def _queue_commit(self, work: ShardWork) -> None:
        self._commits.append(self._writer.submit(self._write_shard, work))

    def _write_shard(self, work: ShardWork) -> CommitMark:
        try:
            mark = commit_shard(
                self._folder,
                work.output,
                work.before,
                started_at=work.started_at,
                bundle_digest=self._scorer.bundle.model.digest,
            )
            self._feeder.finish(work)
        except OSError as error:
            action = "free some space" if error.errno in {errno.ENOSPC, errno.EDQUOT} else "remove the cause"
            message = (
                f"{self._folder}: shard {work.shard.index} cannot be written ({error.strerror or error}) and is not "
                f"committed; {action} and run the same command again"
            )
            raise CannotCommit(message) from error
        earlier_s = work.before.stage_s["write"] if work.before else 0.0
        self.progress.stage_s["write"] += mark.stage_s["write"] - earlier_s
        return mark


def make_request(item: Item) -> ScoreRequest:
    """Return the request that scores an item."""
    return ScoreRequest(
        request_id=item.content_id, content_id=item.content_id, image=ImageSource(uri=item.uri), faces=item.faces
    )
