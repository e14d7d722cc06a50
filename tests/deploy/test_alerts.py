"""Rules and alerts: tests by promtool, and the annotations that each alert must have."""

import re
from typing import Any

import pytest

from tests.deploy.chart import render
from tests.deploy.promql import ROOT, RULES, find_metrics, find_wrong_labels, is_known, read_rules
from tests.deploy.tools import run_tool

TESTS = sorted((ROOT / "deploy/alerts/tests").glob("*.test.yaml"))
ALERTS = [rule for rule in read_rules() if "alert" in rule]
UNLESS_SHADOW = '{{ if eq $labels.unlensed_stage "shadow" }}ticket{{ else }}page{{ end }}'
RECORDED = {rule["record"] for rule in read_rules() if "record" in rule}


def test_promtool_reads_the_rules() -> None:
    """The file is valid, without a finding of promtool's linter."""
    done = run_tool("promtool", "check", "rules", "--lint=all", "--lint-fatal", RULES)
    assert done.returncode == 0, done.stdout + done.stderr


def test_alerts_fire_when_they_should() -> None:
    """Prometheus's own unit tests of the alerts pass."""
    done = run_tool("promtool", "test", "rules", *TESTS)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_has_a_unit_test() -> None:
    """Each alert fires in some test, and is silent in the others."""
    expected = set(re.findall(r'labels: \'{alertname="(\w+)"', "".join(file.read_text() for file in TESTS)))
    assert expected == {alert["alert"] for alert in ALERTS}


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_alert_states_what_to_do(alert: dict[str, Any]) -> None:
    """An alert has a severity, one sentence about the problem, and a runbook."""
    assert alert["labels"]["severity"] in {"page", "ticket", UNLESS_SHADOW}
    assert alert["annotations"].keys() == {"summary", "runbook"}
    assert all(text.endswith(".") for text in alert["annotations"].values())
    assert len(alert["annotations"]["runbook"]) > 60


def test_rules_select_names_of_the_chart() -> None:
    """Rules select the chart's names, without a candidate's."""
    names: dict[str, list[str]] = {}
    for each in render("shadow"):
        names.setdefault(each["kind"], []).append(each["metadata"]["name"])
    called = {
        "job": [f"faces/{name}" for name in names["PodMonitor"]],  # the operator's name without a jobLabel
        "scaledObject": names["ScaledObject"],
        "horizontalpodautoscaler": [f"keda-hpa-{name}" for name in names["ScaledObject"]],
        "statefulset": names["StatefulSet"],
    }
    selected: set[str] = set()
    for rule in read_rules():
        for label, pattern in re.findall(r'\b(\w+)=~"([^"]*)"', rule["expr"]):
            if label in called:
                assert all(re.fullmatch(pattern, name) for name in called[label]), (rule, called[label])
                selected.add(label)
        for pattern in re.findall(r'statefulset!~"([^"]*)"', rule["expr"]):
            assert [name for name in names["StatefulSet"] if not re.fullmatch(pattern, name)] == ["unlensed"]
    assert selected == called.keys()
    assert "jobLabel" not in next(each for each in render("shadow") if each["kind"] == "PodMonitor")["spec"]


@pytest.mark.parametrize("rule", read_rules(), ids=lambda rule: rule.get("alert") or rule["record"])
def test_rule_reads_metrics_that_exist(rule: dict[str, Any]) -> None:
    """Each metric of a rule is the service's, an exporter's, or recorded."""
    metrics = find_metrics(rule["expr"])
    assert metrics
    assert [metric for metric in metrics if not is_known(metric, RECORDED)] == []
    assert find_wrong_labels(rule["expr"]) == []
