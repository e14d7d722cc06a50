"""The metrics of the HTTP service for Prometheus; `NAMES` is the complete list.

Labels have few values, all from this program: no field of a request is a label, so that no sender can add series.
"""

from functools import partial
from http import HTTPStatus

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info

from scorer.api.admission import Admission
from scorer.api.cache import ResultCache
from scorer.api.refusals import RefusalCode
from scorer.messages import Decision, ScoreResult, Status
from scorer.stream.metrics import COUNTS, P_VALUES, STAGE_SECONDS, make_metric
from scorer.stream.process_metrics import ServiceProcessCollector

NAMES = {
    "unlensed_http_requests_total": "HTTP requests answered, by status code.",
    "unlensed_http_refusals_total": "Requests without a result, by the code of the answer.",
    "unlensed_images_answered_total": "Results, by their status.",
    "unlensed_faces_scored_total": "Faces in results, by decision.",
    "unlensed_p_value": "p-values of scored faces.",
    "unlensed_stage_seconds": "Seconds of an image in a stage: payload (fetch it), locate (probe and find faces), wait "
    "(for its batch), score (engine and mixture), explain (all of an explanation), total "
    "(from the admission to the answer, without explanations).",
    "unlensed_batch_images": "Images in a batch.",
    "unlensed_in_flight_images": "Images admitted and not yet answered: the queue.",
    "unlensed_in_flight_bytes": "Bytes of requests and images in flight.",
    "unlensed_cache_hits_total": "Results taken from the cache.",
    "unlensed_cache_bytes": "Bytes of the results in the cache.",
    "unlensed_backend_up": "1 while the engine answers.",
    "unlensed_bundle_info": "1, with bundle_id and digest as labels.",
    "unlensed_policy_refused": "1 while the policies file is refused and the previous policies stay in use.",
}
STAGES = ("payload", "locate", "wait", "score", "explain", "total")
_STATUSES = (
    HTTPStatus.OK,
    HTTPStatus.UNPROCESSABLE_ENTITY,
    HTTPStatus.TOO_MANY_REQUESTS,
    HTTPStatus.INTERNAL_SERVER_ERROR,
)


class ApiMetrics:
    """The metrics of `NAMES`; thread-safe. Series of known labels exist from the start."""

    def __init__(self, admission: Admission, cache: ResultCache) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(ServiceProcessCollector())
        new = partial(make_metric, registry=self.registry, names=NAMES)
        statuses = [str(int(each)) for each in _STATUSES]
        self.requests = new(Counter, "unlensed_http_requests_total", "status", values=statuses)
        self.refusals = new(Counter, "unlensed_http_refusals_total", "code", values=RefusalCode)
        self.images_answered = new(Counter, "unlensed_images_answered_total", "status", values=Status)
        self.faces_scored = new(Counter, "unlensed_faces_scored_total", "decision", values=Decision)
        self.p_value = new(Histogram, "unlensed_p_value", buckets=P_VALUES)
        self.stage_seconds = new(Histogram, "unlensed_stage_seconds", "stage", values=STAGES, buckets=STAGE_SECONDS)
        self.batch_images = new(Histogram, "unlensed_batch_images", buckets=COUNTS)
        self.cache_hits = new(Counter, "unlensed_cache_hits_total")
        self.backend_up = new(Gauge, "unlensed_backend_up")
        self.policy_refused = new(Gauge, "unlensed_policy_refused")
        self.bundle_info = new(Info, "unlensed_bundle_info")
        new(Gauge, "unlensed_in_flight_images").set_function(lambda: admission.images)
        new(Gauge, "unlensed_in_flight_bytes").set_function(lambda: admission.bytes)
        new(Gauge, "unlensed_cache_bytes").set_function(lambda: cache.bytes)

    def count(self, result: ScoreResult) -> None:
        """Count a result and its faces."""
        self.images_answered.labels(result.status.value).inc()
        for face in result.faces:
            self.faces_scored.labels(face.decision.value).inc()
            if face.p_value is not None:
                self.p_value.observe(face.p_value)
