"""The metrics are those of the list, have few series, and Prometheus can read them."""

import pytest
from prometheus_client import CollectorRegistry, generate_latest, openmetrics
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from scorer.stream.broker import TopicPartition
from scorer.stream.metrics import NAMES, STAGES, Metrics


@pytest.fixture
def metrics() -> Metrics:
    """The service's metrics with one series each, as after a first record."""
    metrics = Metrics()
    metrics.bundle_info.info({"bundle_id": "starter", "digest": "d", "mode": "live", "delivery": "at_least_once"})
    metrics.engine_info.info({"mixture": "numpy", "features": "host"})
    metrics.records_received.labels(topic="requests").inc()
    metrics.records_dead.labels(code="not_json").inc()
    metrics.lag_records.labels(topic="requests", partition="0").set(7)
    metrics.stage_seconds.labels(stage="score").observe(0.02)
    return metrics


def exposed(registry: CollectorRegistry) -> dict[str, str]:
    """Return the help of each metric as it is exposed, without those of the process."""
    shown = {}
    for line in generate_latest(registry).decode().splitlines():
        if line.startswith("# HELP unlensed_"):
            _, _, name, text = line.split(" ", 3)
            shown[name] = text
    return shown


def test_the_list_is_what_is_exposed(metrics: Metrics) -> None:
    """The list has every metric with its text, and no other."""
    assert exposed(metrics.registry) == NAMES


def test_each_metric_is_an_attribute_named_after_it(metrics: Metrics) -> None:
    """`unlensed_records_dead_total` is `records_dead`."""
    attributes = {name for name, value in vars(metrics).items() if isinstance(value, MetricWrapperBase)}
    assert attributes == {name.removeprefix("unlensed_").removesuffix("_total") for name in NAMES}


def test_both_expositions_parse(metrics: Metrics) -> None:
    """Prometheus' text and OpenMetrics contain the same counts."""
    text = generate_latest(metrics.registry).decode()
    om = openmetrics.exposition.generate_latest(metrics.registry).decode()
    for families in (parse_text(text), parse_openmetrics(om)):
        samples = {(s.name, *sorted(s.labels.values())): s.value for family in families for s in family.samples}
        assert samples["unlensed_records_received_total", "requests"] == 1
        assert samples["unlensed_stage_seconds_count", "score"] == 1
        assert samples["unlensed_lag_records", "0", "requests"] == 7
        assert samples["process_resident_memory_bytes",] > 0


def test_labels_are_bounded(metrics: Metrics) -> None:
    """No label contains a field of a request, by which senders could add series."""
    labels = {name for family in metrics.registry.collect() for sample in family.samples for name in sample.labels}
    ours = {"topic", "partition", "status", "code", "decision", "stage", "reason", "backend", "le"}
    assert labels == ours | {"bundle_id", "digest", "mode", "delivery", "mixture", "features"}


def test_series_of_known_labels_start_at_zero() -> None:
    """Before the first record, every status, decision, stage, reason and backend is there."""
    samples = {(s.name, *s.labels.values()): s.value for f in Metrics().registry.collect() for s in f.samples}
    for stage in STAGES:
        assert samples["unlensed_stage_seconds_count", stage] == 0
    for series in (
        ("unlensed_records_answered_total", "no_face"),
        ("unlensed_faces_scored_total", "flag"),
        ("unlensed_pauses_total", "backend"),
        ("unlensed_backend_retries_total", "engine"),
        ("unlensed_policy_refused",),
    ):
        assert samples[series] == 0


def test_a_revoked_partition_is_removed(metrics: Metrics) -> None:
    """Its lag is removed, also when repeated; that of others stays."""
    metrics.lag_records.labels(topic="requests", partition="1").set(9)
    metrics.forget(TopicPartition("requests", 0))
    metrics.forget(TopicPartition("requests", 0))
    lags = [sample for family in metrics.lag_records.collect() for sample in family.samples]
    assert [(sample.labels["partition"], sample.value) for sample in lags] == [("1", 9)]
