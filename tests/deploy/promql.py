"""The metrics that a PromQL expression reads, and which program exports each."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from scorer.api.metrics import NAMES as HTTP_NAMES
from scorer.api.metrics import STAGES as HTTP_STAGES
from scorer.api.refusals import RefusalCode
from scorer.messages import DeadLetterCode, Decision, Status
from scorer.stream.metrics import BACKENDS, NAMES, P_VALUES, STAGES

ROOT = Path(__file__).resolve().parents[2]
RULES = ROOT / "deploy" / "helm" / "files" / "unlensed.rules.yaml"
# Metrics of other exporters, from their documentation.
TRITON = {
    *("nv_inference_request_success", "nv_inference_request_failure", "nv_inference_count", "nv_inference_exec_count"),
    *("nv_inference_queue_duration_us", "nv_inference_compute_infer_duration_us", "nv_inference_pending_request_count"),
}
TRITON_GPU = {"nv_gpu_utilization", "nv_gpu_memory_used_bytes", "nv_gpu_power_usage"}
OTHERS = {
    *("DCGM_FI_DEV_GPU_UTIL", "DCGM_FI_DEV_FB_USED", "DCGM_FI_DEV_POWER_USAGE", "DCGM_FI_DEV_XID_ERRORS"),
    "keda_scaler_detail_errors_total",
    "kube_horizontalpodautoscaler_status_current_replicas",
    "kube_horizontalpodautoscaler_status_desired_replicas",
    "kube_horizontalpodautoscaler_spec_max_replicas",
    "kube_horizontalpodautoscaler_spec_min_replicas",
    *("kube_pod_container_status_last_terminated_exitcode", "kube_pod_container_status_last_terminated_timestamp"),
    "kube_statefulset_status_replicas_ready",
}
PROCESS = {"up", "process_start_time_seconds", "process_cpu_seconds_total", "process_resident_memory_bytes"}
# The values of labels in queries.
LABELS = {
    "code": {*DeadLetterCode, *RefusalCode},
    "status": set(Status),
    "decision": set(Decision),
    "stage": {*STAGES, *HTTP_STAGES},
    "backend": set(BACKENDS),
    "mode": {"live", "shadow"},
    "le": {f"{bound}" for bound in P_VALUES},
}
_SELECTED = re.compile(r'\b(\w+)\s*=~?\s*"([^"]*)"')
_WORD = re.compile(r"[A-Za-z_:][A-Za-z0-9_:]*")
_SYNTAX = [
    re.compile(r'"[^"]*"'),
    re.compile(r"\{[^}]*\}"),
    re.compile(r"\[[^\]]*\]"),
    re.compile(r"\b(by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)"),
    re.compile(r"\boffset \w+"),
    re.compile(r"\b(and|or|unless|bool)\b"),
    re.compile(r"(?<![\w:])[A-Za-z_]\w*\s*(?=\()"),  # functions
    re.compile(r"(?<![\w:])(sum|avg|min|max|count)\b(?!:)"),  # aggregations with their labels before the parenthesis
]


def find_metrics(expression: str) -> set[str]:
    """Return the metrics in an expression."""
    for syntax in _SYNTAX:
        expression = syntax.sub(" ", expression)
    return set(_WORD.findall(expression))


def find_wrong_labels(expression: str) -> list[str]:
    """Return the label values in an expression that no metric of this project has."""
    return [
        f"{label}={value}"
        for label, values in _SELECTED.findall(expression)
        for value in values.split("|")
        if label in LABELS and value not in LABELS[label]
    ]


def is_known(metric: str, recorded: set[str]) -> bool:
    """Return whether an exporter or a recording rule has this metric."""
    base = re.sub(r"_(bucket|sum|count)$", "", metric)
    return {metric, base} & (NAMES.keys() | HTTP_NAMES) or metric in TRITON | TRITON_GPU | OTHERS | PROCESS | recorded


def read_rules() -> list[dict[str, Any]]:
    """Return the recording rules and alerts."""
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def iterate_queries(dashboard: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield each panel's title with each of its queries."""
    for panel in dashboard["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"]
