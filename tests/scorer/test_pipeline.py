"""The guarantees of the pipeline: order, bounds, errors at their position, and an end."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any, NoReturn

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.reasons import Reason, Unscorable
from scorer import pipeline as module
from scorer.locate import LocatedImage
from scorer.messages import ImageSource, ScoreRequest, ScoreResult
from scorer.pipeline import PipelineStopped, ScoringPipeline, TimeLimit, TooManyHanging

LATE = Unscorable(Reason.TIMED_OUT, "late")


def make_image(task: int, size: int = 1, failure: Unscorable | None = None) -> LocatedImage:
    """Return what locating a task gives: an image of so many bytes."""
    request = ScoreRequest(request_id=str(task), content_id=str(task), image=ImageSource(uri="file:///x"))
    return LocatedImage(request, bytes(size), None, (), failure, 0.0)


def answer(images: Sequence[LocatedImage]) -> list[ScoreResult]:
    """Answer each image with its request's id."""
    results: list[Any] = [image.request.request_id for image in images]
    return results


def open_pipeline(
    locate: Callable[[int], LocatedImage] = make_image, *, batch: int = 4, limit: TimeLimit[int] | None = None
) -> ScoringPipeline[int]:
    """Return a pipeline of numbers."""
    return ScoringPipeline(locate, [answer, answer], threads=2, batch_images=batch, limit=limit)


@settings(deadline=None, max_examples=25)
@given(st.lists(st.integers(0, 3), max_size=60), st.integers(1, 9), st.integers(0, 1 << 25))
def test_answers_come_in_the_order_of_the_tasks(pauses_ms: list[int], batch: int, size: int) -> None:
    """For any batches, image sizes and speeds of threads, each task has its result in order."""

    def locate(task: int) -> LocatedImage:
        time.sleep(pauses_ms[task] / 1000)
        return make_image(task, size)

    answers = [(done.task, done.result) for done in open_pipeline(locate, batch=batch).run(range(len(pauses_ms)))]
    assert answers == [(task, str(task)) for task in range(len(pauses_ms))]


def test_what_came_before_an_error_is_handed_out() -> None:
    """If the tasks end with an error, the results of the tasks before it come first."""

    def tasks() -> Iterator[int]:
        yield from range(6)
        raise KeyError

    answered: list[int] = []
    with pytest.raises(KeyError):
        answered.extend(done.task for done in open_pipeline().run(tasks()))
    assert answered == list(range(6))


def test_an_error_of_a_stage_reaches_the_caller() -> None:
    """What locating or scoring raises ends the run where the caller is."""

    def fail(_: object) -> NoReturn:
        raise LookupError

    with pytest.raises(LookupError):
        list(open_pipeline(fail).run(range(9)))
    with pytest.raises(LookupError):
        list(ScoringPipeline(make_image, [fail], threads=1, batch_images=2).run(range(9)))


@pytest.mark.parametrize(
    ("size", "most"), [(1, 4 * module.MAX_BATCHES_IN_FLIGHT + 1), (250, 4 + 2 * (2 + module.EXTRA_LOCATORS) + 2)]
)
def test_no_more_is_fed_than_may_be_held(monkeypatch: pytest.MonkeyPatch, size: int, most: int) -> None:
    """A caller that reads no more results stops the feeder, by the number of images or by bytes."""
    monkeypatch.setattr(module, "MAX_BYTES_IN_FLIGHT", 1000)
    monkeypatch.setattr(module, "MAX_BATCH_BYTES", 125)
    fed: list[int] = []

    def tasks() -> Iterator[int]:
        for task in range(1000):
            fed.append(task)
            yield task

    def locate(task: int) -> LocatedImage:
        time.sleep(0.005)
        return make_image(task, size)

    run = open_pipeline(locate).run(tasks())
    next(run)
    held = -1
    while held < len(fed):
        held = len(fed)
        time.sleep(0.1)
    run.close()  # type: ignore[attr-defined]
    assert held <= most


def test_a_task_that_hangs_costs_itself() -> None:
    """A task past its time limit is given up, and its thread is replaced, so that all others are answered."""
    release = threading.Event()

    def locate(task: int) -> LocatedImage:
        if task % 5 == 0:
            release.wait(60)
        return make_image(task)

    limit = TimeLimit(0.1, lambda task: make_image(task, failure=LATE))
    late = [done.task for done in open_pipeline(locate, limit=limit).run(range(40)) if done.image.failure is LATE]
    release.set()
    assert late == list(range(0, 40, 5))


def test_too_many_hanging_tasks_end_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads are not replaced for ever."""
    monkeypatch.setattr(module, "JOIN_TIMEOUT_S", 0.1)
    release = threading.Event()
    limit = TimeLimit(0.01, make_image, max_hanging=3)
    with pytest.raises(TooManyHanging):
        list(open_pipeline(lambda _: make_image(int(release.wait(60))), limit=limit).run(range(40)))
    release.set()


def test_stop_ends_after_the_batch_in_hand() -> None:
    """Once stopped, the rest of the batch comes, and then `PipelineStopped`, though the tasks never end."""
    pipeline = open_pipeline(batch=4)
    run = pipeline.run(iter(int, 1))
    for _ in range(6):
        next(run)
    pipeline.stop()
    assert len(list(islice(run, 2))) == 2
    with pytest.raises(PipelineStopped):
        next(run)


def test_closing_early_leaves_no_thread() -> None:
    """A caller that loses interest leaves nothing running behind."""
    before = threading.active_count()
    for _ in range(3):
        run = open_pipeline().run(iter(int, 1))
        next(run)
        run.close()  # type: ignore[attr-defined]
    for _ in range(200):
        if threading.active_count() == before:
            return
        time.sleep(0.05)
    assert threading.active_count() == before
