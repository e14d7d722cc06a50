"""The service's metrics for Prometheus.

`NAMES` is the complete list. Labels have few values, all from this program or the operator. No field of a request
(tenant, ids, URIs) is a label, so that no sender can add series.
"""

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any, TypeVar

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    disable_created_metrics,
)
from prometheus_client.metrics import MetricWrapperBase

from scorer.messages import DeadLetterCode, Decision, Status
from scorer.stream.broker import TopicPartition
from scorer.stream.process_metrics import ServiceProcessCollector

NAMES = {
    # Records in and out. received = answered + dead + in flight, except for records that are read twice.
    "unlensed_records_received_total": "Records polled, by topic.",
    "unlensed_record_bytes_received_total": "Bytes of keys, values and headers polled.",
    "unlensed_records_answered_total": "Results acknowledged by the broker, by the result's status.",
    "unlensed_records_dead_total": "Dead letters acknowledged by the broker, by error code.",
    "unlensed_records_expired_total": "Records that the broker deleted before they were read, by topic.",
    "unlensed_isolated_records_total": "Records processed alone, because a worker crashed while it processed them.",
    # Results.
    "unlensed_faces_scored_total": "Faces in acknowledged results, by decision.",
    "unlensed_p_value": "p-values of scored faces. Those of photographs like the calibration's are uniform from 0 to "
    "1: a bucket whose share differs from its width means different traffic, different preprocessing, or more faces "
    "unlike photographs.",
    # Time and batches.
    "unlensed_stage_seconds": "Seconds a record spent in a stage: payload (fetch it), locate (probe and find faces), "
    "wait (for its batch), score (engine and mixture), deliver (produce, acknowledge), total (all stages).",
    "unlensed_batch_images": "Images in a batch.",
    "unlensed_batch_faces": "Faces in a batch.",
    # Lag.
    "unlensed_lag_records": "Offsets from the last one read to the log end, by topic and partition that this worker "
    "owns, also while partitions are paused.",
    "unlensed_lag_seconds": "Age of the oldest record in flight, by its broker timestamp; 0 without records in flight, "
    "NaN when none of them has a timestamp.",
    "unlensed_transaction_open_seconds": "Seconds for which an open transaction has blocked the records behind its "
    "first one, by topic and partition that this worker owns.",
    # Backpressure and outages.
    "unlensed_in_flight_images": "Records polled and not yet acknowledged.",
    "unlensed_in_flight_bytes": "Bytes of records in flight: the records, their images until they are answered, and "
    "answers until they are acknowledged.",
    "unlensed_paused": "1 while partitions are paused.",
    "unlensed_pauses_total": "Pauses started, by reason: bytes or images (a budget is used up), backend or broker "
    "(unavailable).",
    "unlensed_backend_up": "1 while the engine answers.",
    "unlensed_backend_retries_total": "Calls retried because a backend was unavailable, by backend: engine or broker.",
    # The running configuration.
    "unlensed_bundle_info": "1, with bundle_id, digest, mode and delivery as labels.",
    "unlensed_engine_info": "1, with mixture (cupy or numpy, which computes it) and features (device, "
    "cuda_shared_memory or host, where it gets them) as labels.",
    "unlensed_policy_reloads_total": "New versions of the policies file in use.",
    "unlensed_policy_refused": "1 while the policies file is refused and the previous policies stay in use.",
}

STAGES = ("payload", "locate", "wait", "score", "deliver", "total")
PAUSE_REASONS = ("bytes", "images", "backend", "broker")
BACKENDS = ("engine", "broker")

STAGE_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
COUNTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
P_VALUES = (0.001, 0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1)

Metric = TypeVar("Metric", bound=MetricWrapperBase)


def set_by_partition(gauge: Gauge, values: Mapping[TopicPartition, float]) -> None:
    """Set a gauge with the labels topic and partition for each partition."""
    for topic_partition, value in values.items():
        gauge.labels(topic=topic_partition.topic, partition=str(topic_partition.partition)).set(value)


# They would add a series for each counter that is not in the list.
disable_created_metrics()  # type: ignore[no-untyped-call]  # untyped there


class Metrics:
    """The metrics of `NAMES`, each an attribute named without `unlensed_` and `_total`; thread-safe.

    Series of known labels exist from the start, so that a first error is an increase from 0 and not a new series, which
    `rate()` ignores.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(
            ServiceProcessCollector()
        )  # process_resident_memory_bytes, process_cpu_seconds_total, ...
        new = partial(make_metric, registry=self.registry)
        self.records_received = new(Counter, "unlensed_records_received_total", "topic")
        self.record_bytes_received = new(Counter, "unlensed_record_bytes_received_total")
        self.records_answered = new(Counter, "unlensed_records_answered_total", "status", values=Status)
        self.records_dead = new(Counter, "unlensed_records_dead_total", "code", values=DeadLetterCode)
        self.records_expired = new(Counter, "unlensed_records_expired_total", "topic")
        self.isolated_records = new(Counter, "unlensed_isolated_records_total")
        self.faces_scored = new(Counter, "unlensed_faces_scored_total", "decision", values=Decision)
        self.p_value = new(Histogram, "unlensed_p_value", buckets=P_VALUES)
        self.stage_seconds = new(Histogram, "unlensed_stage_seconds", "stage", values=STAGES, buckets=STAGE_SECONDS)
        self.batch_images = new(Histogram, "unlensed_batch_images", buckets=COUNTS)
        self.batch_faces = new(Histogram, "unlensed_batch_faces", buckets=COUNTS)
        self.lag_records = new(Gauge, "unlensed_lag_records", "topic", "partition")
        self.lag_seconds = new(Gauge, "unlensed_lag_seconds")
        self.transaction_open_seconds = new(Gauge, "unlensed_transaction_open_seconds", "topic", "partition")
        self.in_flight_images = new(Gauge, "unlensed_in_flight_images")
        self.in_flight_bytes = new(Gauge, "unlensed_in_flight_bytes")
        self.paused = new(Gauge, "unlensed_paused")
        self.pauses = new(Counter, "unlensed_pauses_total", "reason", values=PAUSE_REASONS)
        self.backend_up = new(Gauge, "unlensed_backend_up")
        self.backend_retries = new(Counter, "unlensed_backend_retries_total", "backend", values=BACKENDS)
        self.bundle_info = new(Info, "unlensed_bundle_info")
        self.engine_info = new(Info, "unlensed_engine_info")
        self.policy_reloads = new(Counter, "unlensed_policy_reloads_total")
        self.policy_refused = new(Gauge, "unlensed_policy_refused")

    def forget(self, topic_partition: TopicPartition) -> None:
        """Remove the series of a partition that this worker no longer owns; its new owner reports them."""
        for gauge in (self.lag_records, self.transaction_open_seconds):
            gauge.remove(topic_partition.topic, str(topic_partition.partition))


def make_metric(
    kind: type[Metric],
    name: str,
    *labels: str,
    registry: CollectorRegistry,
    names: Mapping[str, str] = NAMES,
    values: Iterable[str] = (),
    **options: Any,  # noqa: ANN401 - `buckets` of a histogram
) -> Metric:
    """Return a metric of `names` in `registry`, with a series for each of the `values` of its label."""
    # prometheus_client adds _info itself, and _total only where it is missing.
    metric = kind(name.removesuffix("_info"), names[name], labels, registry=registry, **options)
    for value in values:
        metric.labels(value)
    return metric
