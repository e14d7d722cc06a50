"""From tasks to results, in order, with every stage at work at once: feed, read and locate, score, hand out.

    feeder ──> locators (read, probe, detect) ──> batcher ──> one thread a scorer ──> the caller, in order

A thread a stage, because nearly all the time is spent outside Python: in files and sockets, in decoders, in the
engine. Nothing drains between batches: while one batch is in the engine the next is decoded, and those after it are
read. What is held at once is bounded in images and in bytes, so memory does not depend on how many tasks there are.
"""

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Generic, TypeVar

from scorer.locate import LocatedImage
from scorer.messages import ScoreResult

EXTRA_LOCATORS = 4  # beyond one a core: a read waits for its disk or its store
END_S = 10.0
BATCHES_HELD = 6  # being read, located, scored and handed out
HELD_BYTES = 256 << 20
BATCH_BYTES = HELD_BYTES // 8  # a batch ends here, so that what is held cannot wait for what may not come in

T = TypeVar("T")
Scorer = Callable[[Sequence[LocatedImage]], list[ScoreResult]]


@dataclass(slots=True, eq=False)
class _Entry(Generic[T]):
    """A task on its way to being located."""

    task: T
    begun: threading.Event = field(default_factory=threading.Event)
    done: threading.Event = field(default_factory=threading.Event)
    begun_s: float = 0.0
    thread: threading.Thread | None = None
    image: LocatedImage | None = None
    error: BaseException | None = None
    given_up: bool = False


@dataclass(slots=True, eq=False)
class _Batch(Generic[T]):
    entries: list[_Entry[T]]
    images: list[LocatedImage]
    done: threading.Event = field(default_factory=threading.Event)
    results: list[ScoreResult] = field(default_factory=list)
    seconds: float = 0.0
    error: BaseException | None = None


@dataclass(frozen=True, slots=True)
class Done(Generic[T]):
    """A task with its answer; `score_s` is its share of its batch's seconds."""

    task: T
    image: LocatedImage
    result: ScoreResult
    score_s: float


class PipelineStopped(Exception):
    """`ScoringPipeline.stop` was called: what was not handed out is not answered."""


class Overdue(Exception):
    """So many tasks hang that no thread is left for others."""


@dataclass(frozen=True, slots=True)
class TimeLimit(Generic[T]):
    """How long a task may take to be located, and what takes its place then; at most `max_hanging` may hang at once."""

    seconds: float
    give_up: Callable[[T], LocatedImage]
    max_hanging: int = 32


class ScoringPipeline(Generic[T]):
    """Answers tasks; one run a pipeline.

    Args:
        locate: reads and locates one task; called from many threads. What it raises ends the run.
        scorers: each scores one batch at a time, in a thread of its own.
        threads: how many cores there are.
        batch_images: how many images a batch holds at most.
        limit: the time a task may take; None waits for ever.
    """

    def __init__(
        self,
        locate: Callable[[T], LocatedImage],
        scorers: Sequence[Scorer],
        *,
        threads: int,
        batch_images: int,
        limit: TimeLimit[T] | None = None,
    ) -> None:
        self._locate, self._scorers, self._limit = locate, scorers, limit
        self._locators, self._batch_images = threads + EXTRA_LOCATORS, batch_images
        self._hanging = 0
        self._threads: list[threading.Thread | None] = []  # that the end waits for
        self._to_locate: SimpleQueue[_Entry[T] | None] = SimpleQueue()
        self._in_order: SimpleQueue[_Entry[T] | BaseException | None] = SimpleQueue()
        self._to_score: SimpleQueue[_Batch[T] | None] = SimpleQueue()
        self._finished: SimpleQueue[_Batch[T] | BaseException | None] = SimpleQueue()
        self._room = threading.Condition()
        self._images = self._bytes = self._unbegun = 0
        self._ended = self._stopping = False

    def stop(self) -> None:
        """End the run after the batch in hand; may be called by a signal's handler."""
        self._stopping = True
        self._finished.put(PipelineStopped())

    def run(self, tasks: Iterable[T]) -> Iterator[Done[T]]:
        """Yield each task with its answer, in order. Close the iterator to end early.

        Raises:
            Stopped: `stop` was called.
            Overdue: more tasks hang than the time limit allows for.
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
                    yield Done(entry.task, image, result, share_s)
                self._release(len(batch.images), sum(len(image.data) for image in batch.images))
        finally:
            self._end()

    def _end(self) -> None:
        with self._room:
            self._ended = True
            self._room.notify()
        for _ in range(self._locators):
            self._to_locate.put(None)
        for _ in self._scorers:
            self._to_score.put(None)
        self._in_order.put(None)
        # An interpreter that ends while a thread comes out of native code aborts; whoever hangs is not waited for.
        deadline_s = time.monotonic() + END_S
        for thread in filter(None, self._threads):
            thread.join(max(0.0, deadline_s - time.monotonic()))

    def _start(self, work: Callable[[], None]) -> None:
        thread = threading.Thread(target=work, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _feed(self, tasks: Iterable[T]) -> None:
        try:
            for task in tasks:
                with self._room:
                    self._room.wait_for(self._has_room)
                    if self._ended:
                        break
                    self._images += 1
                    self._unbegun += 1
                    entry = _Entry(task)
                    self._to_locate.put(entry)
                    self._in_order.put(entry)
        except BaseException as error:  # noqa: BLE001 - raised again by `run`, after what came before it
            self._in_order.put(error)
        else:
            self._in_order.put(None)

    def _has_room(self) -> bool:
        # How large an image is shows when it is read: so no more are let in unread than will be read at once.
        room = self._images < BATCHES_HELD * self._batch_images and self._bytes < HELD_BYTES
        return self._ended or (room and self._unbegun < self._locators)

    def _release(self, images: int, size: int) -> None:
        with self._room:
            self._images -= images
            self._bytes -= size
            self._room.notify()

    def _locate_all(self) -> None:
        while (entry := self._to_locate.get()) is not None:
            with self._room:
                self._unbegun -= 1
                self._room.notify()  # only the feeder waits
            entry.begun_s, entry.thread = time.monotonic(), threading.current_thread()
            entry.begun.set()
            try:
                if self._ended:
                    entry.error = PipelineStopped()
                else:
                    entry.image = self._locate(entry.task)
            except BaseException as error:  # noqa: BLE001 - raised again by `run`
                entry.error = error
            with self._room:
                if entry.given_up:  # another thread has taken this one's place
                    self._hanging -= 1
                    return
                if entry.image:
                    self._bytes += len(entry.image.data)
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
                size += len(image.data)
                if len(batch.images) == self._batch_images or size >= BATCH_BYTES:
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
        entry.begun.wait()  # tasks begin in order, and whoever hangs is replaced: it will
        if self._limit and not entry.done.wait(max(0.0, entry.begun_s + self._limit.seconds - time.monotonic())):
            with self._room:
                if not entry.done.is_set():
                    return self._give_up(entry, self._limit)
        entry.done.wait()
        if entry.error:
            raise entry.error
        if entry.image is None:
            raise AssertionError(entry)
        return entry.image

    def _give_up(self, entry: _Entry[T], limit: TimeLimit[T]) -> LocatedImage:
        entry.given_up = True
        self._hanging += 1
        if self._hanging > limit.max_hanging:
            message = f"{self._hanging} images hang at once, each for more than {limit.seconds:g} s"
            raise Overdue(message)
        self._start(self._locate_all)
        self._threads.remove(entry.thread)
        return limit.give_up(entry.task)

    def _score_all(self, score: Scorer) -> None:
        while (batch := self._to_score.get()) is not None and not self._ended:
            started_s = time.perf_counter()
            try:
                batch.results = score(batch.images)
            except BaseException as error:  # noqa: BLE001 - raised again by `run`
                batch.error = error
            batch.seconds = time.perf_counter() - started_s
            batch.done.set()
