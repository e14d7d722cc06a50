"""Compose's services as processes: photographs are scored, dashboards have data."""

import json
import math
import re
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaProducer

from deploy.grafana.panels import STAGES
from deploy.grafana.render import FOLDER as DASHBOARDS
from deploy.grafana.render import render
from deploy.grafana.stream import HTTP, MINE, OURS
from scorer.settings import KafkaSettings, StreamSettings
from scorer.stream.broker import Outgoing
from scorer.stream.metrics import NAMES
from tests.deploy.compose import read_compose
from tests.deploy.images import ROOT
from tests.deploy.promql import (
    OTHERS,
    TRITON_GPU,
    find_metrics,
    find_wrong_labels,
    is_known,
    iterate_queries,
    read_rules,
)
from tests.deploy.stack import Prometheus, create_topics, make_broker, make_scorer, running_prometheus, running_triton
from tests.scorer.stream.kafka_peers import Site, wait_until

PAGES = {name: json.loads((DASHBOARDS / name).read_text()) for name in render()}
QUERIES = [(name, *query) for name, page in PAGES.items() for query in iterate_queries(page)]
ELSEWHERE = OTHERS | TRITON_GPU
RECORDED = {rule["record"] for rule in read_rules() if "record" in rule}
ROUNDS, PER_ROUND, ROUND_S = 8, 4, 1.0


@dataclass
class Running:
    """The running services, and the results of the requests."""

    broker: str
    prometheus: Prometheus
    results: list[dict[str, Any]]


@pytest.fixture(scope="module")
def live(portrait: bytes, triton_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Start everything, send photographs for some seconds, and a record that is none."""
    services = read_compose(COMPOSE_PROFILES="cpu")["services"]
    folder = tmp_path_factory.mktemp("compose")
    photos = folder / "photos"
    photos.mkdir()
    (photos / "portrait.png").write_bytes(portrait)
    with ExitStack() as stack:
        broker = stack.enter_context(make_broker(services["kafka"], folder / "kafka"))
        create_topics(services["topics"], broker)
        grpc, metrics = stack.enter_context(running_triton(triton_python, folder))
        addresses = {
            "bundle": ROOT / "model_repository",
            "kafka__bootstrap": broker.address("INSIDE"),
            "triton__url": grpc,
            "stream__policies": ROOT / "deploy/policies.toml",
            "payloads__file_roots": json.dumps([str(photos)]),
        }
        scorer = stack.enter_context(make_scorer(services["scorer"], addresses, folder / "scorer.log"))
        scorer.wait_ready()
        address = str(scorer.find_url()).removeprefix("http://")
        # The same scorer with another name represents a shadow with the same figures.
        shadow = {"targets": [address.replace("127.0.0.1", "localhost")], "labels": {"unlensed_stage": "shadow"}}
        targets = {"scorer": [{"targets": [address]}, shadow], "triton": [{"targets": [metrics]}], "api": []}
        prometheus = stack.enter_context(running_prometheus(targets, folder))
        wait_until(lambda: len(prometheus.query('up{job="unlensed"} == 1')) == 3, "the first scrapes")
        site = Site(KafkaSettings(bootstrap=broker.bootstrap), StreamSettings())
        stack.callback(site.close)
        _, sink = site.connect()
        image = {"uri": (photos / "portrait.png").as_uri()}
        for turn in range(ROUNDS):
            requests = [
                {"request_id": f"{turn}-{each}", "content_id": "portrait", "image": image} for each in range(PER_ROUND)
            ]
            sink.deliver([Outgoing("unlensed.requests", None, json.dumps(request).encode()) for request in requests])
            sink.deliver([Outgoing("unlensed.requests", None, b"no request")])
            time.sleep(ROUND_S)
        wait_until(lambda: len(site.read("unlensed.results")) == ROUNDS * PER_ROUND, "all answers")
        wait_until(lambda: _total(prometheus) == ROUNDS * PER_ROUND, "the last scrape")
        results = [json.loads(record.value) for record in site.read("unlensed.results")]
        yield Running(broker.bootstrap, prometheus, results)
        assert scorer.stop() == 0, scorer.read_log()[-2000:]


def _total(prometheus: Prometheus) -> float:
    return sum(value for _, value in prometheus.query('unlensed_records_answered_total{unlensed_stage=""}'))


def test_photograph_is_scored(live: Running) -> None:
    """The request of README.md, a photograph by its path, gets a decision."""
    assert {result["status"] for result in live.results} == {"scored"}
    assert all(result["faces"][0]["p_value"] > 0 for result in live.results)


def test_lag_is_measured_with_the_brokers_clock(live: Running) -> None:
    """A request with a producer's timestamp of 1970 has the age of the broker's timestamp."""
    producer = KafkaProducer(bootstrap_servers=live.broker)
    written = producer.send("unlensed.requests", b"no request", timestamp_ms=1).get(10)
    producer.close()
    assert abs(written.timestamp / 1000 - time.time()) < 60


def test_queries_return_data(live: Running) -> None:
    """Each query of a panel of the scorer or Triton has a number for each of its series."""
    wrong = []
    for page, title, query in QUERIES:
        found = live.prometheus.query(_fill(query))
        if find_metrics(query) & ELSEWHERE or HTTP in query:  # valid, but without an exporter here
            assert found == []
        elif not found or not all(math.isfinite(value) for _, value in found):
            wrong.append((page, title, query, found))
    assert wrong == []


def test_recording_rules_record(live: Running) -> None:
    """Each recording rule has a series under its name for each stage."""
    assert RECORDED
    stages = {None, "shadow"}
    wait_until(
        lambda: all(
            {labels.get("unlensed_stage") for labels, _ in live.prometheus.query(name)} == stages for name in RECORDED
        ),
        "the recording rules",
    )


@pytest.mark.parametrize(
    ("stage", "workers", "answers"),
    [("serving", 1, 1), ("live", 1, 1), ("canary", 0, 0), ("shadow", 1, 1), ("all", 2, 2)],
)
def test_stages_are_separate(live: Running, stage: str, workers: int, answers: int) -> None:
    """The chosen stage decides which workers and answers are counted; no label means live."""
    counted = f"count(unlensed_bundle_info{OURS}) or vector(0)"
    summed = f'sum(unlensed_records_answered_total{{{MINE}, status="scored"}}) or vector(0)'
    assert [value for _, value in live.prometheus.query(_fill(counted, STAGES[stage]))] == [workers]
    assert [value for _, value in live.prometheus.query(_fill(summed, STAGES[stage]))] == [answers * ROUNDS * PER_ROUND]


def test_legends_are_unique(live: Running) -> None:
    """No two series of a panel have the same legend, even when all stages are shown."""
    for page in PAGES.values():
        for panel in page["panels"]:
            names = [
                _name(target["legendFormat"], labels)
                for target in panel.get("targets", ())
                if panel["type"] != "table"
                for labels, _ in live.prometheus.query(_fill(target["expr"], STAGES["all"]))
            ]
            assert len(set(names)) == len(names), (panel["title"], names)


def test_every_metric_is_used() -> None:
    """Every metric of the service is in a panel or a rule."""
    read = {metric for _, _, query in QUERIES for metric in find_metrics(query)}
    read |= {metric for rule in read_rules() for metric in find_metrics(rule["expr"])}
    assert {name for name in NAMES if not read & {name, f"{name}_bucket", f"{name}_count", f"{name}_sum"}} == set()


def test_queries_select_the_chosen_stage() -> None:
    """A query reads the chosen installations and stages only."""
    for page, title, query in QUERIES:
        ours = find_metrics(query) - OTHERS
        by_stage = "by (unlensed_stage" in query or ours <= RECORDED
        selected = [found for found in re.findall(r"([\w:]+){([^}]*)}", query) if found[0] in ours]
        assert {metric for metric, _ in selected} == ours, (page, title)
        for _, labels in selected:
            assert 'job=~"$job"' in labels, (page, title)
            assert by_stage or labels.startswith(HTTP) or 'unlensed_stage=~"$stage"' in labels, (page, title)


def test_alerts_are_silent(live: Running) -> None:
    """A healthy service raises no alert."""
    assert live.prometheus.query('ALERTS{alertstate="firing"}') == []


def test_queries_read_metrics_that_exist() -> None:
    """Metrics of panels and their labels' values exist."""
    for page, title, query in QUERIES:
        assert [metric for metric in find_metrics(query) if not is_known(metric, RECORDED)] == [], (page, title)
        assert find_wrong_labels(query) == [], (page, title)


@pytest.mark.parametrize("name", render())
def test_dashboard_is_generated(name: str) -> None:
    """The committed file is the generated one; panels neither overlap nor share an id."""
    assert (DASHBOARDS / name).read_text() == render()[name]
    panels = PAGES[name]["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    places = [panel["gridPos"] for panel in panels]
    cells = [
        (x, y) for at in places for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])
    ]
    assert len(set(cells)) == len(cells)


def _fill(query: str, stage: str = STAGES["serving"]) -> str:
    """Return the query with Grafana's variables replaced."""
    query = query.replace("$__rate_interval", "15s").replace("$__range", "30s").replace("$job", ".*")
    return query.replace("$stage", stage)


def _name(legend: str, labels: dict[str, str]) -> str:
    """Return the legend of a series in Grafana."""
    return re.sub(r"{{(\w+)}}", lambda label: labels.get(label[1], ""), legend)
