"""The steps from a record to its answer: parse, fetch, probe, find faces, score in batches, give to the ledger.

It uses threads, since nearly all the time is spent outside Python: in the engine, in the detector's processes, in
sockets. An unforeseen exception is passed to `on_crash`, which stops the worker without a further commit.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue

from ingest.clips import DEFAULT_CLIP_SETTINGS, ClipSettings
from ingest.detector_pool import SandboxClosed
from ingest.probe import Limits
from ingest.reasons import Reason, Unscorable
from scorer.decide import Policy
from scorer.engines.base import Embedder
from scorer.errors import PayloadUnavailable
from scorer.locate import LocatedImage, MediaReader, locate_faces, make_failed_image
from scorer.messages import DeadLetterCode, ScoreRequest, ScoreResult
from scorer.model import Model
from scorer.observe.trace_context import (
    Attribute,
    Span,
    TraceContext,
    parse_traceparent,
    span,
    start_span,
    trace_headers,
)
from scorer.policies import PolicyNotFound, PolicyWatcher
from scorer.score import score_batch
from scorer.settings import StreamSettings
from scorer.stream.batcher import Batcher
from scorer.stream.broker import Outgoing, Record
from scorer.stream.codec import InvalidRecord, encode_result, parse_request
from scorer.stream.dead_letters import make_dead_letter, shrink
from scorer.stream.ledger import InFlight, Ledger
from scorer.stream.metrics import Metrics
from scorer.stream.retry import RetryStopped

WORKERS = 8  # more than cores: threads wait for the stores of images
FIRST_BYTES = 4 * 2**20  # of an image in a store; the few larger ones are read twice, stated videos are not

Answer = tuple[InFlight, Outgoing, Callable[[], object]]


@dataclass(frozen=True, slots=True)
class Scorable:
    """An image with its faces, ready for a batch."""

    entry: InFlight
    span: Span
    image: LocatedImage
    policy: Policy


@dataclass(frozen=True, slots=True)
class Dependencies:
    """The objects that the pipeline uses.

    Attributes:
        read_payload: returns a request's image of at most the given bytes; raises `Unscorable` or `PayloadUnavailable`.
        detector: thread-safe.
        embedder: thread-safe; retries during outages, and raises `RetryStopped` when the service stops.
    """

    read_payload: Callable[[ScoreRequest, int], bytes]
    detector: MediaReader
    embedder: Embedder
    model: Model
    limits: Limits
    policies: PolicyWatcher
    clips: ClipSettings = DEFAULT_CLIP_SETTINGS


class RecordPipeline:
    """Answers records; `submit` never blocks, since the ledger's budget limits the submitted records."""

    def __init__(
        self,
        dependencies: Dependencies,
        settings: StreamSettings,
        ledger: Ledger,
        metrics: Metrics,
        on_crash: Callable[[BaseException], None],
    ) -> None:
        self._dependencies, self._settings, self._ledger, self._metrics = dependencies, settings, ledger, metrics
        self._on_crash = on_crash
        self._submitted: SimpleQueue[tuple[InFlight, bool] | None] = SimpleQueue()
        self._batcher: Batcher[Scorable] = Batcher(settings.batch_images, settings.batch_bytes, settings.batch_age_s)
        self._threads = [
            *(self._thread(f"prepare-{number}", self._prepare_all) for number in range(WORKERS)),
            *(self._thread(f"score-{number}", self._score_all) for number in range(settings.batches_in_flight)),
        ]

    def submit(self, entry: InFlight, *, alone: bool = False) -> None:
        """Start a record; one that is `alone` does not wait for others in its batch."""
        self._submitted.put((entry, alone))

    def reject(self, entry: InFlight, code: DeadLetterCode, message: str, attempts: int = 1) -> None:
        """Answer a record with a dead letter."""
        self._reject(entry, record_span(entry.record, self._settings.group_id), code, message, attempts)

    def shrink(self, entry: InFlight, why: str) -> bool:
        """Replace an answer that the broker refuses by a smaller one; return whether there is one."""
        answer = entry.answer
        if answer is None or answer.topic == self._settings.results_topic:
            self.reject(entry, DeadLetterCode.ANSWER_TOO_LARGE, f"its result was refused: {why}")
            return True
        smaller = shrink(entry.record, answer)
        if smaller:
            self._ledger.answer(entry, smaller, entry.on_acknowledged)
        return smaller is not None

    def close(self) -> None:
        """Stop idle threads; busy ones end with the process."""
        for _ in range(WORKERS):
            self._submitted.put(None)
        self._batcher.close()

    def _thread(self, name: str, work: Callable[[], None]) -> threading.Thread:
        def run() -> None:
            try:
                work()
            except (RetryStopped, SandboxClosed):
                pass
            except BaseException as error:  # noqa: BLE001 - after any error the worker must stop
                self._on_crash(error)

        thread = threading.Thread(target=run, name=name, daemon=True)
        thread.start()
        return thread

    def _prepare_all(self) -> None:
        while (submitted := self._submitted.get()) is not None:
            self._prepare_one(*submitted)  # a frame of its own, which frees the image when it returns

    def _prepare_one(self, entry: InFlight, alone: bool) -> None:  # noqa: FBT001 - as submitted
        of_record = record_span(entry.record, self._settings.group_id)
        try:
            scorable = self._prepare(entry, of_record)
        except (InvalidRecord, PolicyNotFound) as error:
            self._reject(entry, of_record, error.code, str(error))
        except PayloadUnavailable as error:
            self._reject(entry, of_record, DeadLetterCode.PAYLOAD_UNAVAILABLE, str(error))
        else:
            self._batcher.add(scorable, scorable.image.size, full=alone)

    def _prepare(self, entry: InFlight, of_record: Span) -> Scorable:
        request = parse_request(entry.record, self._settings.max_record_bytes, self._settings.max_json_bytes)
        policy = self._dependencies.policies.book.choose(request)
        try:
            with self._stage("payload", of_record.context):
                data = self._read(entry, request)
        except Unscorable as failure:
            self._ledger.set_image_bytes(entry, 0)
            # Without the traceback, whose frames keep the image alive.
            return Scorable(entry, of_record, make_failed_image(request, failure.with_traceback(None)), policy)
        with self._stage("locate", of_record.context):
            parts = self._dependencies
            image = locate_faces(request, data, parts.detector, parts.limits, policy.min_face_px, parts.clips)
        return Scorable(entry, of_record, image, policy)

    def _read(self, entry: InFlight, request: ScoreRequest) -> bytes:
        inline = request.image.data is not None
        data = (
            self._dependencies.read_payload(request, self._dependencies.limits.max_bytes)
            if inline
            else self._fetch(entry, request)
        )
        self._ledger.set_image_bytes(entry, len(data))
        return data

    def _fetch(self, entry: InFlight, request: ScoreRequest) -> bytes:
        """Return an image from its store, read when its largest possible size fits into the budget."""
        most = self._dependencies.limits.max_bytes
        for size in sorted({most if request.image.is_large else min(FIRST_BYTES, most), most}):
            self._ledger.reserve_image(entry, size, self._settings.max_in_flight_bytes)
            try:
                return self._dependencies.read_payload(request, size)
            except Unscorable as failure:
                if size == most or failure.reason is not Reason.TOO_MANY_BYTES:
                    raise
        raise AssertionError(most)

    def _score_all(self) -> None:
        while batch := self._batcher.take():
            answers = self._score_batch(batch)
            del batch  # the images must be freed before the ledger stops counting them
            for entry, answer, on_acknowledged in answers:
                self._ledger.answer(entry, answer, on_acknowledged)

    def _score_batch(self, batch: list[tuple[Scorable, float]]) -> list[Answer]:
        for _, waited_s in batch:
            self._metrics.stage_seconds.labels(stage="wait").observe(waited_s)
        self._metrics.batch_images.observe(len(batch))
        self._metrics.batch_faces.observe(sum(len(scorable.image.faces) for scorable, _ in batch))
        # A batch has one parent span for each record; its own span is a child of the first.
        with self._stage("score", batch[0][0].span.context):
            return self._score([scorable for scorable, _ in batch])

    def _score(self, batch: list[Scorable]) -> list[Answer]:
        images = [(scorable.image, scorable.policy) for scorable in batch]
        results = score_batch(images, self._dependencies.embedder, self._dependencies.model)
        topic, mode = self._settings.results_topic, self._settings.mode
        answers: list[Answer] = []
        for scorable, result in zip(batch, results, strict=True):
            entry, of_record = scorable.entry, scorable.span
            answer = encode_result(entry.record, result, topic, mode, trace_headers(of_record.context))
            answers.append((entry, answer, partial(self._count_result, entry, of_record, result)))
        return answers

    def _reject(self, entry: InFlight, of_record: Span, code: DeadLetterCode, message: str, attempts: int = 1) -> None:
        topic, digest = self._settings.dead_letters_topic, self._dependencies.model.digest
        dead_letter = make_dead_letter(entry.record, topic, code, message, attempts, digest)
        self._ledger.answer(entry, dead_letter, partial(self._count_dead, entry, of_record, code))

    def _count_result(self, entry: InFlight, of_record: Span, result: ScoreResult) -> None:
        self._metrics.records_answered.labels(status=result.status.value).inc()
        for face in result.faces:
            self._metrics.faces_scored.labels(decision=face.decision.value).inc()
            if face.p_value is not None:
                self._metrics.p_value.observe(face.p_value)
        self._finish(entry, of_record, None)

    def _count_dead(self, entry: InFlight, of_record: Span, code: DeadLetterCode) -> None:
        self._metrics.records_dead.labels(code=code).inc()
        self._finish(entry, of_record, code)

    def _finish(self, entry: InFlight, of_record: Span, error_type: str | None) -> None:
        self._metrics.stage_seconds.labels(stage="total").observe(time.monotonic() - entry.received_s)
        of_record.end(error_type)

    @contextmanager
    def _stage(self, name: str, parent: TraceContext | None) -> Iterator[None]:
        with self._metrics.stage_seconds.labels(stage=name).time(), span(name, parent):
            yield


def record_span(record: Record, group: str) -> Span:
    """Start the span of one record, from poll to delivery, with the trace context of its headers."""
    attributes: dict[str, Attribute] = {
        "messaging.system": "kafka",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": record.topic,
        "messaging.destination.partition.id": str(record.partition),
        "messaging.kafka.offset": record.offset,
        "messaging.consumer.group.name": group,
        "messaging.message.body.size": len(record.value or b""),
    }
    return start_span(f"process {record.topic}", parse_traceparent(record.headers), "CONSUMER", attributes)
