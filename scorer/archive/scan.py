"""The scan itself: shards of a plan in, committed shards out, with reading, scoring and writing overlapped.

A feeder runs ahead over shard boundaries, so nothing drains at a shard's end; one thread writes and commits. Shards
whose process was killed repeatedly come last and one image at a time (`scorer.archive.attempts`).
"""

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ingest.reasons import Reason, Unscorable
from scorer.archive.attempts import Claim, find_suspects
from scorer.archive.commit import Mark, commit_shard, read_errors, read_mark, select_retryable
from scorer.archive.items import Item, Plan, Shard, SourceDamaged
from scorer.archive.output import examine_provenance
from scorer.archive.work import ShardWork, Task
from scorer.engine import LocalScorer
from scorer.locate import LocatedImage, refuse
from scorer.messages import ImageSource, ScoreRequest
from scorer.payloads.https import PayloadUnavailable
from scorer.pipeline import Done, Pipeline, TimeLimit

OUTAGE_ITEMS = 100  # in a row that could not be had: an outage is not an answer
OUTAGE_SHARDS = 3
COMMITS_WAITING = 2
KILLS_WORKER = Unscorable(Reason.KILLS_WORKER, "the process died whenever it began this image")


class Outage(Exception):
    """The archive cannot be read now; what is not committed is not answered."""


class CannotCommit(OSError):
    """A shard cannot be written; the sentence says why and how to go on."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Time limits in seconds; None is none."""

    item_s: float | None = 60.0
    shard_s: float | None = None


@dataclass(frozen=True, slots=True)
class Advance:
    """Told after each image: what this scan has done so far."""

    counts: Counter[str]
    stage_s: Counter[str]


class Scan:
    """Scans shards of one run in this process; one call of `run` each.

    Args:
        folder: the run's.
        plan: what there is to scan.
        scorer: the engine.
        read: returns an item's bytes; raises `Unscorable` or `PayloadUnavailable`, the latter within the item's limit.
        limits: of time.
        on_advance: told of each image, in the calling thread.
    """

    def __init__(
        self,
        folder: Path,
        plan: Plan,
        scorer: LocalScorer,
        read: Callable[[Item], bytes],
        limits: Limits = Limits(),  # noqa: B008 - frozen
        on_advance: Callable[[Advance], object] = lambda _: None,
    ) -> None:
        self._folder, self._plan, self._scorer, self._read, self._limits = folder, plan, scorer, read, limits
        self._on_advance = on_advance
        self._digest = scorer.bundle.model.digest
        self._progress = Advance(Counter(), Counter())
        self._stopping = False
        self._pipeline: Pipeline[Task] | None = None
        self._in_hand: set[ShardWork] = set()
        self._commits: deque[Future[Mark]] = deque()
        self._suspects: set[int] = set()
        self._unreadable: list[str] = []
        self._unavailable_in_a_row = 0
        self._writer = ThreadPoolExecutor(1, "commit")

    def stop(self) -> None:
        """End after the batch in hand with `Stopped`; may be called by a signal's handler."""
        self._stopping = True
        if self._pipeline:
            self._pipeline.stop()

    def run(self, shards: Sequence[int], *, retry_failed: bool = False) -> Counter[str]:
        """Scan `shards`, those that are committed left out, and return what was done (`Mark`'s counts).

        Args:
            shards: their indexes, ascending.
            retry_failed: score the images again that could not be read or not in time, of committed shards.

        Raises:
            Stopped: `stop` was called.
            Outage: the archive cannot be read now.
            CannotCommit: the disk is full, among others.
        """
        self._suspects = find_suspects(self._folder / "_attempts")
        try:
            self._drive(shards, retry_failed=retry_failed)
            for shard in sorted(self._suspects.intersection(shards)):
                self._drive([shard], retry_failed=retry_failed, alone=True)
        finally:
            self._stopping = True
            self._writer.shutdown(wait=True)
            for work in list(self._in_hand):
                with suppress(OSError):  # what ended the run matters more than a note about it
                    work.claim.release()
        if self._unreadable:
            message = (
                f"{len(self._unreadable)} shards cannot be read now ({self._unreadable[0]}); all others are "
                "committed: run the same command again"
            )
            raise Outage(message)
        return self._progress.counts

    def _drive(self, shards: Sequence[int], *, retry_failed: bool, alone: bool = False) -> None:
        limit = TimeLimit(self._limits.item_s, self._give_up) if self._limits.item_s else None
        self._pipeline = self._scorer.open_pipeline(self._locate, limit, batch_images=1 if alone else None)
        if self._stopping:
            self._pipeline.stop()
        gate = threading.Semaphore(1) if alone else None
        try:
            for done in self._pipeline.run(self._feed(shards, gate, retry_failed=retry_failed)):
                self._receive(done)
                if gate:
                    gate.release()
        finally:
            if gate:
                gate.release()
        while self._commits:
            self._commits.popleft().result()

    def _feed(self, shards: Sequence[int], gate: threading.Semaphore | None, *, retry_failed: bool) -> Iterator[Task]:
        for index in shards:
            if self._stopping:
                return
            if gate is None and index in self._suspects:
                continue
            work = self._begin(index, alone=gate is not None, retry_failed=retry_failed)
            if work is None:
                continue
            expected = 0
            try:
                for position, item in enumerate(self._plan.read_items(work.shard)):
                    if not work.wants(position):
                        continue
                    refusal = KILLS_WORKER if work.claim.kills(position) else None
                    if gate:
                        gate.acquire()
                        if not refusal:
                            work.claim.note(position)
                    expected += 1
                    yield Task(work, position, item, refusal)
            except SourceDamaged as error:  # what came before holds; that there is more, nobody can say
                refusal = Unscorable(Reason.TRUNCATED, str(error))
                expected += 1
                yield Task(work, expected, stand_in(work.shard), refusal)
            except PayloadUnavailable as error:
                work.abandoned = True
                self._unreadable.append(str(error))
                if len(self._unreadable) >= OUTAGE_SHARDS:
                    message = f"{error}; {len(self._unreadable)} shards cannot be read: run the same command again"
                    raise Outage(message) from error
                continue
            if work.end(expected):
                self._commit(work)

    def _begin(self, index: int, *, alone: bool, retry_failed: bool) -> ShardWork | None:
        mark = read_mark(self._folder, index)
        if mark and not (retry_failed and mark.retryable):
            return None
        claim = Claim.take(self._folder / "_attempts", index)
        if claim is None:
            return None  # another process works on it
        mark = read_mark(self._folder, index)  # as it is now that nobody else changes it
        if mark and not (retry_failed and mark.retryable):
            claim.finish()
            return None
        if claim.suspect and not alone:  # its process died since this scan began
            claim.release()
            self._suspects.add(index)
            return None
        wanted = select_retryable(read_errors(self._folder, mark)) if mark else None
        work = ShardWork(self._plan.read_shard(index), claim, mark, wanted)
        self._in_hand.add(work)
        return work

    def _locate(self, task: Task) -> LocatedImage:
        item = task.item
        request = make_request(item)
        if task.refusal:
            return refuse(request, task.refusal)
        if task.work.is_overdue(self._limits.shard_s):
            why = f"its shard took more than {self._limits.shard_s:g} s"
            return refuse(request, Unscorable(Reason.TIMED_OUT, why))
        started_s = time.perf_counter()
        try:
            data = self._read(item)
        except Unscorable as failure:
            return refuse(request, failure)
        except PayloadUnavailable as error:
            task.unavailable = True
            return refuse(request, Unscorable(Reason.UNREADABLE, str(error)))
        finally:
            task.read_s = time.perf_counter() - started_s
        image = self._scorer.locate(request, data)
        if image.info:
            task.provenance = examine_provenance(data, image.info)
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
            raise Outage(message)
        while self._commits and (self._commits[0].done() or len(self._commits) > COMMITS_WAITING):
            self._commits.popleft().result()
        if work.abandoned:
            return
        output = work.output
        before = output.counts.copy()
        output.add(task.position, task.item, done.result, task.provenance)
        self._progress.counts.update(output.counts - before)
        stages = {"read": task.read_s, "locate": done.image.locate_ms / 1000, "score": done.score_s}
        for stage_s in (output.stage_s, self._progress.stage_s):
            stage_s.update(stages)
        self._on_advance(self._progress)
        if work.receive():
            self._commit(work)

    def _commit(self, work: ShardWork) -> None:
        self._commits.append(self._writer.submit(partial(self._publish, work)))

    def _publish(self, work: ShardWork) -> Mark:
        try:
            mark = commit_shard(
                self._folder, work.output, work.before, started_at=work.started_at, bundle_digest=self._digest
            )
            work.claim.finish()
        except OSError as error:
            message = (
                f"{self._folder}: shard {work.shard.index} cannot be written ({error.strerror or error}) and is not "
                "committed; make room and run the same command again"
            )
            raise CannotCommit(message) from error
        self._in_hand.discard(work)
        self._progress.stage_s["write"] += mark.stage_s["write"]
        return mark


def make_request(item: Item) -> ScoreRequest:
    """Return the request that scores an item."""
    return ScoreRequest(
        request_id=item.content_id, content_id=item.content_id, image=ImageSource(uri=item.uri), faces=item.faces
    )


def stand_in(shard: Shard) -> Item:
    """Return what stands for the images of a tar or manifest that cannot be read to its end."""
    return Item(content_id=shard.uri, source=shard.uri.rpartition("/")[2], uri=shard.uri)
