"""From requests to results with the steps of every job; images of many HTTP requests share batches.

It uses threads, since nearly all the time is spent outside Python. What waits is limited by the tickets of
`scorer.api.admission`: each request brings one, and it is released when the work is done, also where the client left.
"""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from queue import SimpleQueue

from ingest.detector_pool import SandboxBroken, SandboxClosed
from ingest.reasons import Unscorable
from scorer.api.admission import Admission, Overloaded, Ticket
from scorer.api.cache import ResultCache
from scorer.api.metrics import ApiMetrics
from scorer.decide import Policy
from scorer.errors import BundleMismatch, PayloadUnavailable
from scorer.explain.explain import Explainer, explain_image
from scorer.locate import LocatedImage, make_failed_image
from scorer.messages import ScoreRequest, ScoreResult
from scorer.observe.logs import get_logger
from scorer.policies import PolicyNotFound
from scorer.score import score_batch
from scorer.settings import ApiSettings
from scorer.stream.batcher import Batcher
from scorer.stream.pipeline import Dependencies
from scorer.stream.retry import RetryStopped

WORKERS = 8  # more than cores: threads wait for the stores of images
BATCHES_IN_FLIGHT = 2  # one is cut or in the engine while the results of another are made
FATAL = (BundleMismatch, SandboxBroken)  # the process cannot score another image
_REFUSED = (PolicyNotFound, PayloadUnavailable, Overloaded)

log = get_logger(__name__)


class Defect(Exception):
    """An image could not be scored for an unforeseen reason, which is logged."""


class CannotExplain(Exception):
    """The engine cannot explain a score."""


class Stopping(Exception):
    """The service stops; the image was not scored."""


@dataclass(slots=True, eq=False)
class _Job:
    request: ScoreRequest
    ticket: Ticket
    answer: "Future[ScoreResult]"


@dataclass(frozen=True, slots=True)
class _Scorable:
    answer: "Future[ScoreResult]"
    image: LocatedImage
    policy: Policy
    cache_key: str | None


class ScoringService:
    """Scores requests.

    Args:
        dependencies: as those of a stream.
        settings: sizes of batches.
        cache: stores nothing if it has no room.
        metrics: counts results and times.
        on_fatal: called when the process cannot score another image, from any thread.
        explainer: explains one image at a time; None if the engine cannot.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - one parameter per collaborator
        self,
        dependencies: Dependencies,
        settings: ApiSettings,
        cache: ResultCache,
        metrics: ApiMetrics,
        on_fatal: Callable[[Exception], object],
        explainer: Explainer | None,
    ) -> None:
        self._dependencies, self._cache, self._metrics, self._on_fatal = dependencies, cache, metrics, on_fatal
        self._explainer = explainer
        self._explanations = Admission(settings.max_in_flight_explanations, settings.max_in_flight_bytes)
        self._submitted: SimpleQueue[_Job | None] = SimpleQueue()
        self._to_explain: SimpleQueue[_Scorable | None] = SimpleQueue()
        self._batcher: Batcher[_Scorable] = Batcher(settings.batch_images, settings.batch_bytes, settings.batch_age_s)
        for number in range(WORKERS):
            threading.Thread(target=self._prepare_all, name=f"prepare-{number}", daemon=True).start()
        for number in range(BATCHES_IN_FLIGHT):
            threading.Thread(target=self._score_all, name=f"score-{number}", daemon=True).start()
        if explainer:
            threading.Thread(target=self._explain_all, args=(explainer,), name="explain", daemon=True).start()

    def submit(self, request: ScoreRequest, ticket: Ticket) -> "Future[ScoreResult]":
        """Start a request and return its answer; the ticket is released when it is there.

        The future raises `PolicyNotFound`, `PayloadUnavailable`, `Overloaded`, `CannotExplain`, `Stopping`, `Defect`
        or one of `FATAL`.
        """
        answer: Future[ScoreResult] = Future()
        answer.set_running_or_notify_cancel()  # it cannot be cancelled: the ticket counts until the work is done
        answer.add_done_callback(lambda _: ticket.release())
        started_s = time.perf_counter()
        if request.explain:
            try:
                room = self._admit_explanation()
            except (CannotExplain, Overloaded) as error:
                answer.set_exception(error)
                return answer
            answer.add_done_callback(lambda _: room.release())
        else:
            total = self._metrics.stage_seconds.labels("total")
            answer.add_done_callback(lambda _: total.observe(time.perf_counter() - started_s))
        self._submitted.put(_Job(request, ticket, answer))
        return answer

    def _admit_explanation(self) -> Ticket:
        if self._explainer is None:
            message = "this service cannot explain: it has no bundle for the CPU in its own process"
            raise CannotExplain(message)
        return self._explanations.admit(0)

    def close(self) -> None:
        """Stop idle threads; busy ones end with the process."""
        for _ in range(WORKERS):
            self._submitted.put(None)
        self._to_explain.put(None)
        self._batcher.close()

    def _prepare_all(self) -> None:
        while (job := self._submitted.get()) is not None:
            self._prepare_one(job)  # a frame of its own, which frees the image when it returns
            del job

    def _prepare_one(self, job: _Job) -> None:
        try:
            scorable = self._prepare(job)
        except _REFUSED as error:
            job.answer.set_exception(error)
        except Exception as error:  # noqa: BLE001 - the thread must go on
            self._fail(job.answer, error)
        else:
            if scorable and job.request.explain:
                self._to_explain.put(scorable)
            elif scorable:
                self._batcher.add(scorable, scorable.image.size)

    def _prepare(self, job: _Job) -> _Scorable | None:
        """Return what is ready for a batch, or None where the cache had the answer."""
        parts, request = self._dependencies, job.request
        policy = parts.policies.book.choose(request)
        try:
            with self._metrics.stage_seconds.labels("payload").time():
                data = self._read(job)
        except Unscorable as failure:
            return _Scorable(job.answer, make_failed_image(request, failure.with_traceback(None)), policy, None)
        cached = self._cache.enabled and not request.explain
        key = self._cache.make_key(request, data, policy) if cached else None
        if key and (found := self._cache.find(key, request)):
            self._metrics.cache_hits.inc()
            self._metrics.count(found)
            job.answer.set_result(found)
            return None
        with self._metrics.stage_seconds.labels("locate").time():
            image = parts.locate(request, data, policy)
        return _Scorable(job.answer, image, policy, key)

    def _read(self, job: _Job) -> bytes:
        data = self._dependencies.read(job.request, job.ticket.resize)
        job.ticket.resize(len(data))
        return data

    def _score_all(self) -> None:
        while batch := self._batcher.take():
            for _, waited_s in batch:
                self._metrics.stage_seconds.labels("wait").observe(waited_s)
            self._metrics.batch_images.observe(len(batch))
            self._score([scorable for scorable, _ in batch])
            del batch

    def _score(self, batch: list[_Scorable]) -> None:
        images = [(scorable.image, scorable.policy) for scorable in batch]
        try:
            with self._metrics.stage_seconds.labels("score").time():
                results = score_batch(images, self._dependencies.embedder, self._dependencies.model)
        except Exception as error:  # noqa: BLE001 - the thread must go on
            if len(batch) == 1 or isinstance(error, (*FATAL, RetryStopped, SandboxClosed)):
                for scorable in batch:
                    self._fail(scorable.answer, error)
                return
            for scorable in batch:  # one image must not fail its neighbours
                self._score([scorable])
            return
        for scorable, result in zip(batch, results, strict=True):
            if scorable.cache_key:
                self._cache.store(scorable.cache_key, result)
            self._metrics.count(result)
            scorable.answer.set_result(result)

    def _explain_all(self, explainer: Explainer) -> None:
        while scorable := self._to_explain.get():
            self._explain(explainer, scorable)
            del scorable

    def _explain(self, explainer: Explainer, scorable: _Scorable) -> None:
        try:
            with self._metrics.stage_seconds.labels("explain").time():
                result = explain_image(explainer, scorable.image, scorable.policy)
        except Unscorable as failure:  # it was scored; a decoding process was killed meanwhile
            log.warning("a face was scored, but not explained", why=failure.detail)
            self._score([scorable])
        except Exception as error:  # noqa: BLE001 - the thread must go on
            self._fail(scorable.answer, error)
        else:
            self._metrics.count(result)
            scorable.answer.set_result(result)

    def _fail(self, answer: "Future[ScoreResult]", error: Exception) -> None:
        if isinstance(error, (RetryStopped, SandboxClosed)):
            error = Stopping()
        elif isinstance(error, FATAL):
            self._on_fatal(error)
        else:
            log.error("an image could not be scored; please report it", exc_info=error)
            error = Defect()
        answer.set_exception(error)
