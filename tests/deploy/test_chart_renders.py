"""Kubernetes and the operators accept the manifests of the chart."""

import json
import re
import shutil
from pathlib import Path

import jsonschema
import kubernetes_validate
import pytest
import yaml

from deploy.grafana.render import render as render_dashboards
from tests.deploy.chart import CHART, SCENARIOS, WORKLOADS, Refused, find, render, run_helm
from tests.deploy.tools import ROOT, run_tool

CRDS = Path(__file__).parent / "crds"
CUSTOM = {path.stem for path in CRDS.glob("*.json")}


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_lint_finds_nothing(scenario: str) -> None:
    """`helm lint --strict` has no warning."""
    said = run_helm("lint", "--strict", CHART, "--values", CHART / "ci" / f"{scenario}-values.yaml")
    assert "[WARNING]" not in said


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_every_manifest_fits_its_schema(scenario: str) -> None:
    """Kubernetes' kinds fit the schemas of 1.37, custom ones those of the used fields."""
    for document in render(scenario):
        if document["kind"] in CUSTOM:
            schema = json.loads((CRDS / f"{document['kind']}.json").read_text())
            jsonschema.validate(document, schema)
        else:
            kubernetes_validate.validate(document, "1.37", strict=True)


def test_scenarios_cover_every_custom_resource() -> None:
    """Each schema of a custom resource is used by a scenario."""
    assert {each["kind"] for name in SCENARIOS for each in render(name)} >= CUSTOM


def test_alerts_are_those_of_the_repository() -> None:
    """The chart's rules are those that promtool tests."""
    rules = find(render("gpu-sidecar"), "PrometheusRule")
    assert rules["spec"] == yaml.safe_load((CHART / "files/unlensed.rules.yaml").read_text())


def test_dashboards_are_those_of_the_repository() -> None:
    """The ConfigMap that Grafana's sidecar selects contains every dashboard unchanged."""
    dashboards = find(render("gpu-sidecar"), "ConfigMap", "unlensed-dashboards")
    assert dashboards["metadata"]["labels"]["grafana_dashboard"] == "1"
    stored = {f"unlensed-{path.name}": path.read_text() for path in (CHART / "files").glob("*.json")}
    assert dashboards["data"] == stored


def test_the_chart_has_files_and_no_links() -> None:
    """Some packagers drop links, and a rule file that is missing renders nothing."""
    assert {path.name for path in (CHART / "files").iterdir()} == {"unlensed.rules.yaml", *render_dashboards()}
    assert not [path for path in CHART.rglob("*") if path.is_symlink()]


@pytest.mark.parametrize("name", ["unlensed.rules.yaml", "stream.json"])
@pytest.mark.parametrize("content", [None, " \n"])
def test_a_chart_without_its_files_is_refused(tmp_path: Path, name: str, content: str | None) -> None:
    """A missing or empty file of rules or of a dashboard fails the release."""
    chart = shutil.copytree(CHART, tmp_path / "chart")
    (chart / "files" / name).unlink()
    if content is not None:
        (chart / "files" / name).write_text(content)
    values = CHART / "ci" / "gpu-sidecar-values.yaml"
    with pytest.raises(Refused, match=f"files/{name} is missing or empty"):
        run_helm("template", "unlensed", chart, "--values", values)


def test_one_release_installs_what_is_shared() -> None:
    """A second release is scraped, without alerts and dashboards."""
    kinds = {(each["kind"], each["metadata"]["name"]) for each in render("gpu-sidecar", "monitoring.shared=false")}
    assert ("PodMonitor", "unlensed") in kinds
    assert not kinds & {("PrometheusRule", "unlensed"), ("ConfigMap", "unlensed-dashboards")}


def test_overlay_puts_all_of_it_into_a_restricted_namespace(tmp_path: Path) -> None:
    """The overlay has the chart's manifests and a `restricted` namespace."""
    shutil.copytree(ROOT / "deploy" / "kustomize", tmp_path, dirs_exist_ok=True)
    values = CHART / "ci" / "scram-values.yaml"
    flags = ("--namespace", "unlensed", "--values", values, "--no-hooks")
    (tmp_path / "rendered.yaml").write_text(run_helm("template", "unlensed", CHART, *flags))
    run = run_tool("kubectl", "kustomize", tmp_path)
    assert run.returncode == 0, run.stderr
    documents = list(yaml.safe_load_all(run.stdout))
    assert "Pod" not in {each["kind"] for each in documents}  # hooks, which only Helm runs
    labels = find(documents, "Namespace")["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    assert {each["metadata"].get("namespace") for each in documents if each["kind"] != "Namespace"} == {"unlensed"}


@pytest.mark.parametrize("release", ["faces", "faces.of.today", "a" * 53, f"{'a' * 32}-unlensed-{'b' * 11}"])
def test_names_contain_the_product_and_are_short(release: str) -> None:
    """With any release's name workers are `unlensed`, and no name is too long."""
    values = CHART / "ci" / "shadow-values.yaml"
    documents = [each for each in yaml.safe_load_all(run_helm("template", release, CHART, "--values", values)) if each]
    assert all(re.fullmatch("[-a-z0-9.]{1,63}", each["metadata"]["name"]) for each in documents)
    assert not any("." in each["metadata"]["name"] for each in documents if each["kind"] in {"Service", *WORKLOADS})
    assert all("unlensed" in each["metadata"]["name"] for each in documents if each["kind"] == "StatefulSet")
