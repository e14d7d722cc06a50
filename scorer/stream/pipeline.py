"""From a record to its answer: workers parse, fetch, probe and locate; batches are scored; answers go to the ledger.

Threads, because nearly all the time is spent outside Python: in the engine, in the detector's processes, in sockets.
An exception that nobody foresaw is handed to `on_crash`, which ends the worker with nothing committed.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from queue import SimpleQueue

from ingest.detect import FaceDetector
from ingest.probe import Limits
from ingest.reasons import Unscorable
from scorer.decide import Policy
from scorer.embed import Embedder
from scorer.locate import LocatedImage, locate_faces, refuse
from scorer.messages import ScoreRequest, ScoreResult
from scorer.model import Model
from scorer.policies import PolicyNotFound, PolicyWatcher
from scorer.score import score_batch
from scorer.stream.batcher import Batcher
from scorer.stream.codec import InvalidRecord, encode_result, parse_request
from scorer.stream.dead_letters import dead_letter
from scorer.stream.ledger import Ledger, Ticket
from scorer.stream.metrics import Metrics
from scorer.stream.patience import Stopped
from scorer.stream.payloads import PayloadUnavailable
from scorer.stream.settings import StreamSettings

WORKERS = 8  # more than cores: a claim check waits for its store


@dataclass(frozen=True, slots=True)
class Scorable:
    """A located image on its way into a batch."""

    ticket: Ticket
    image: LocatedImage
    policy: Policy


@dataclass(frozen=True, slots=True)
class Parts:
    """What the pipeline works with.

    Attributes:
        read_payload: returns a request's image; raises `Unscorable` or `PayloadUnavailable`.
        detector: thread-safe.
        embedder: thread-safe; waits out outages and raises `Stopped` when it shall not.
    """

    read_payload: Callable[[ScoreRequest], bytes]
    detector: FaceDetector
    embedder: Embedder
    model: Model
    limits: Limits
    policies: PolicyWatcher


class Pipeline:
    """Answers tickets; `submit` never blocks, because the ledger's budget bounds what is submitted."""

    def __init__(
        self,
        parts: Parts,
        settings: StreamSettings,
        ledger: Ledger,
        metrics: Metrics,
        on_crash: Callable[[BaseException], None],
    ) -> None:
        self._parts, self._settings, self._ledger, self._metrics = parts, settings, ledger, metrics
        self._on_crash = on_crash
        self._submitted: SimpleQueue[Ticket | None] = SimpleQueue()
        self._batcher: Batcher[Scorable] = Batcher(settings.batch_images, settings.batch_bytes, settings.batch_age_s)
        self._threads = [
            *(self._thread(f"prepare-{number}", self._prepare_all) for number in range(WORKERS)),
            *(self._thread(f"score-{number}", self._score_all) for number in range(settings.batches_in_flight)),
        ]

    def submit(self, ticket: Ticket) -> None:
        """Start on a record."""
        self._submitted.put(ticket)

    def reject(self, ticket: Ticket, code: str, message: str, attempts: int = 1) -> None:
        """Answer a record with a dead letter."""
        self._metrics.records_dead.labels(code=code).inc()
        topic, digest = self._settings.dead_letters_topic, self._parts.model.digest
        self._ledger.answer(ticket, dead_letter(ticket.record, topic, code, message, attempts, digest))

    def close(self) -> None:
        """Send idle threads home; busy ones end with the process."""
        for _ in range(WORKERS):
            self._submitted.put(None)
        self._batcher.close()

    def _thread(self, name: str, work: Callable[[], None]) -> threading.Thread:
        def run() -> None:
            try:
                work()
            except Stopped:
                pass
            except BaseException as error:  # noqa: BLE001 - whatever it is, the worker must not go on
                self._on_crash(error)

        thread = threading.Thread(target=run, name=name, daemon=True)
        thread.start()
        return thread

    def _prepare_all(self) -> None:
        while (ticket := self._submitted.get()) is not None:
            try:
                scorable = self._prepare(ticket)
            except InvalidRecord as error:
                self.reject(ticket, error.code, str(error))
            except PolicyNotFound as error:
                self.reject(ticket, error.code, str(error))
            except PayloadUnavailable as error:
                self.reject(ticket, "payload_unavailable", str(error))
            else:
                self._batcher.add(scorable, len(scorable.image.data))

    def _prepare(self, ticket: Ticket) -> Scorable:
        request = parse_request(ticket.record, self._settings.max_record_bytes)
        policy = self._parts.policies.book.choose(request)
        stage_s = self._metrics.stage_seconds
        try:
            with stage_s.labels(stage="payload").time():
                data = self._parts.read_payload(request)
        except Unscorable as failure:
            return Scorable(ticket, refuse(request, failure), policy)
        with stage_s.labels(stage="locate").time():
            return Scorable(ticket, locate_faces(request, data, self._parts.detector, self._parts.limits), policy)

    def _score_all(self) -> None:
        while batch := self._batcher.take():
            self._metrics.batch_images.observe(len(batch))
            for _, waited_s in batch:
                self._metrics.stage_seconds.labels(stage="wait").observe(waited_s)
            with self._metrics.stage_seconds.labels(stage="score").time():
                self._score([scorable for scorable, _ in batch])

    def _score(self, batch: list[Scorable]) -> None:
        policies = {id(scorable.image.request): scorable.policy for scorable in batch}
        results = score_batch(
            [scorable.image for scorable in batch],
            self._parts.embedder,
            self._parts.model,
            lambda request: policies[id(request)],
        )
        for scorable, result in zip(batch, results, strict=True):
            self._count(result)
            record = scorable.ticket.record
            self._ledger.answer(
                scorable.ticket, encode_result(record, result, self._settings.results_topic, self._settings.mode)
            )

    def _count(self, result: ScoreResult) -> None:
        self._metrics.records_answered.labels(status=result.status.value).inc()
        for face in result.faces:
            self._metrics.faces_scored.labels(decision=face.decision.value).inc()
            if face.p_value is not None:
                self._metrics.p_value.observe(face.p_value)
