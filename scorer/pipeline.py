"""From tasks to results, in order, with all stages running at once: feed, read and locate, score, yield.

    feeder ──> locators (read, probe, detect) ──> batcher ──> one thread a scorer ──> the caller, in order

Each stage has threads, because nearly all the time is spent outside Python: in files and sockets, in decoders, in the
engine. The stages overlap: while one batch is in the engine, the next is decoded and later ones are read. The images in
flight are bounded in number and in bytes, so memory does not depend on the number of tasks.
"""

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Generic, TypeVar

from scorer.locate import LocatedImage
from scorer.messages import ScoreResult

EXTRA_LOCATORS = 4  # beyond one per core, because a read waits for a disk or a store
JOIN_TIMEOUT_S = 10.0
MAX_BATCHES_IN_FLIGHT = 6  # being read, located, scored and yielded
MAX_BYTES_IN_FLIGHT = 256 << 20
MAX_BATCH_BYTES = (
    MAX_BYTES_IN_FLIGHT // 8
)  # a batch ends here, so that what is held cannot wait for what may not come in

T = TypeVar("T")
ScoreBatch = Callable[[Sequence[LocatedImage]], list[ScoreResult]]


@dataclass(slots=True, eq=False)
class _Entry(Generic[T]):
    """A task that is being located."""

    task: T
    started: threading.Event = field(default_factory=threading.Event)
    done: threading.Event = field(default_factory=threading.Event)
    started_s: float = 0.0
    thread: threading.Thread | None = None
    image: LocatedImage | None = None
    error: BaseException | None = None
    abandoned: bool = False


@dataclass(slots=True, eq=False)
class _Batch(Generic[T]):
    entries: list[_Entry[T]]
    images: list[LocatedImage]
    done: threading.Event = field(default_factory=threading.Event)
    results: list[ScoreResult] = field(default_factory=list)
    seconds: float = 0.0
    error: BaseException | None = None


@dataclass(frozen=True, slots=True)
class ScoredTask(Generic[T]):
    """A task with its result; `score_s` is its share of the seconds of its batch."""

    task: T
    image: LocatedImage
    result: ScoreResult
    score_s: float


class PipelineStopped(Exception):
    """`ScoringPipeline.stop` was called: tasks that were not yielded have no result."""


class TooManyHanging(Exception):
    """More tasks hang than the time limit allows."""


@dataclass(frozen=True, slots=True)
class TimeLimit(Generic[T]):
    """How long the location of a task may take.

    Attributes:
        seconds: the limit.
        give_up: returns the image that replaces a late one.
        max_hanging: how many late tasks may hang at once.
    """

    seconds: float
    give_up: Callable[[T], LocatedImage]
    max_hanging: int = 32


class ScoringPipeline(Generic[T]):
    """Scores tasks; each pipeline can run once.

    Args:
        locate: reads and locates one task; called from many threads. An exception ends the run.
        scorers: each scores one batch at a time, in its own thread.
        threads: the number of cores.
        batch_images: the largest number of images in a batch.
        limit: of the time to locate a task; None means no limit.
    """

    def __init__(
        self,
        locate: Callable[[T], LocatedImage],
        scorers: Sequence[ScoreBatch],
        *,
        threads: int,
        batch_images: int,
        limit: TimeLimit[T] | None = None,
    ) -> None:
        self._locate, self._scorers, self._limit = locate, scorers, limit
        self._locators, self._batch_images = threads + EXTRA_LOCATORS, batch_images
        self._hanging = 0
        self._threads: list[threading.Thread | None] = []  # that `_end` joins
        self._to_locate: SimpleQueue[_Entry[T] | None] = SimpleQueue()
        self._in_order: SimpleQueue[_Entry[T] | BaseException | None] = SimpleQueue()
        self._to_score: SimpleQueue[_Batch[T] | None] = SimpleQueue()
        self._finished: SimpleQueue[_Batch[T] | BaseException | None] = SimpleQueue()
        self._changed = threading.Condition()
        self._images = self._bytes = self._unstarted = 0
        self._ended = self._stopping = False

    def stop(self) -> None:
        """End the run after the current batch; a signal handler may call this."""
        self._stopping = True
        self._finished.put(PipelineStopped())

    def run(self, tasks: Iterable[T]) -> Iterator[ScoredTask[T]]:
        """Yield each task with its result, in order. Close the iterator to stop early.

        Raises:
            PipelineStopped: `stop` was called.
            TooManyHanging: more tasks hang than the time limit allows.
        """
        threads = [lambda: self._feed(tasks), self._batch_up]
        threads += [self._locate_all] * self._locators
        threads += [lambda scorer=scorer: self._score_all(scorer) for scorer in self._scorers]  # type: ignore[misc]
        for work in threads:
            self._start(work)
        try:
            while (batch := self._finished.get()) is not None:
                if isinstance(batch, BaseException):
                    raise batch
                if self._stopping:
                    raise PipelineStopped
                batch.done.wait()
                if batch.error:
                    raise batch.error
                share_s = batch.seconds / len(batch.images)
                for entry, image, result in zip(batch.entries, batch.images, batch.results, strict=True):
                    yield ScoredTask(entry.task, image, result, share_s)
                self._release(len(batch.images), sum(image.size for image in batch.images))
        finally:
            self._end()

    def _end(self) -> None:
        with self._changed:
            self._ended = True
            self._changed.notify()
        for _ in range(self._locators):
            self._to_locate.put(None)
        for _ in self._scorers:
            self._to_score.put(None)
        self._in_order.put(None)
        # The interpreter aborts if it exits while a thread returns from native code; a thread that hangs is not joined.
        deadline_s = time.monotonic() + JOIN_TIMEOUT_S
        for thread in filter(None, self._threads):
            thread.join(max(0.0, deadline_s - time.monotonic()))

    def _start(self, work: Callable[[], None]) -> None:
        thread = threading.Thread(target=work, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _feed(self, tasks: Iterable[T]) -> None:
        try:
            for task in tasks:
                with self._changed:
                    self._changed.wait_for(self._can_start)
                    if self._ended:
                        break
                    self._images += 1
                    self._unstarted += 1
                    entry = _Entry(task)
                    self._to_locate.put(entry)
                    self._in_order.put(entry)
        except BaseException as error:  # noqa: BLE001 - raised again by `run`, after the tasks before it
            self._in_order.put(error)
        else:
            self._in_order.put(None)

    def _can_start(self) -> bool:
        # The size of an image is known when it is read: so only as many tasks enter as can be read at once.
        room = self._images < MAX_BATCHES_IN_FLIGHT * self._batch_images and self._bytes < MAX_BYTES_IN_FLIGHT
        return self._ended or (room and self._unstarted < self._locators)

    def _release(self, images: int, size: int) -> None:
        with self._changed:
            self._images -= images
            self._bytes -= size
            self._changed.notify()

    def _locate_all(self) -> None:
        while (entry := self._to_locate.get()) is not None:
            with self._changed:
                self._unstarted -= 1
                self._changed.notify()  # only the feeder waits
            entry.started_s, entry.thread = time.monotonic(), threading.current_thread()
            entry.started.set()
            try:
                if self._ended:
                    entry.error = PipelineStopped()
                else:
                    entry.image = self._locate(entry.task)
            except BaseException as error:  # noqa: BLE001 - raised again by `run`
                entry.error = error
            with self._changed:
                if entry.abandoned:  # another thread has replaced this one
                    self._hanging -= 1
                    return
                if entry.image:
                    self._bytes += entry.image.size
                entry.done.set()

    def _batch_up(self) -> None:
        batch: _Batch[T] = _Batch([], [])
        size = 0
        end: BaseException | None = None
        try:
            while (entry := self._in_order.get()) is not None:
                if isinstance(entry, BaseException):
                    end = entry
                    break
                image = self._await_image(entry)
                batch.entries.append(entry)
                batch.images.append(image)
                size += image.size
                if len(batch.images) == self._batch_images or size >= MAX_BATCH_BYTES:
                    self._send(batch)
                    batch, size = _Batch([], []), 0
        except BaseException as error:  # noqa: BLE001 - raised again by `run`
            end = error
        if batch.images:
            self._send(batch)
        self._finished.put(end)

    def _send(self, batch: _Batch[T]) -> None:
        self._to_score.put(batch)
        self._finished.put(batch)

    def _await_image(self, entry: _Entry[T]) -> LocatedImage:
        entry.started.wait()  # this ends: tasks start in order, and a thread that hangs is replaced
        if self._limit and not entry.done.wait(max(0.0, entry.started_s + self._limit.seconds - time.monotonic())):
            with self._changed:
                if not entry.done.is_set():
                    return self._give_up(entry, self._limit)
        entry.done.wait()
        if entry.error:
            raise entry.error
        if entry.image is None:
            raise AssertionError(entry)
        return entry.image

    def _give_up(self, entry: _Entry[T], limit: TimeLimit[T]) -> LocatedImage:
        entry.abandoned = True
        self._hanging += 1
        if self._hanging > limit.max_hanging:
            message = f"{self._hanging} images hang at once, each for more than {limit.seconds:g} s"
            raise TooManyHanging(message)
        self._start(self._locate_all)
        self._threads.remove(entry.thread)
        return limit.give_up(entry.task)

    def _score_all(self, score: ScoreBatch) -> None:
        while (batch := self._to_score.get()) is not None and not self._ended:
            started_s = time.perf_counter()
            try:
                batch.results = score(batch.images)
            except BaseException as error:  # noqa: BLE001 - raised again by `run`
                batch.error = error
            batch.seconds = time.perf_counter() - started_s
            batch.done.set()
