"""Renders the chart with the real helm, for the tests of deploy/helm."""

from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from tests.deploy.tools import ROOT, run_tool

CHART = ROOT / "deploy" / "helm"
SCENARIOS = tuple(sorted(path.name.removesuffix("-values.yaml") for path in (CHART / "ci").glob("*-values.yaml")))
NAMESPACE = "faces"
WORKLOADS = {"StatefulSet", "Deployment", "Job", "Pod"}

Document = dict[str, Any]


class Refused(Exception):
    """Helm did not render the chart; the message is Helm's."""


def run_helm(*arguments: str | Path) -> str:
    """Return the output of helm.

    Raises:
        Refused: it fails.
    """
    run = run_tool("helm", *arguments)
    if run.returncode:
        raise Refused(run.stderr + run.stdout)
    return run.stdout


@cache
def render_text(scenario: str, *settings: str) -> str:
    """Return the manifests of a scenario; `settings` are `key=value`, the value in JSON."""
    flags = [flag for setting in settings for flag in ("--set-json", setting)]
    values = CHART / "ci" / f"{scenario}-values.yaml"
    return run_helm("template", "unlensed", CHART, "--namespace", NAMESPACE, "--values", values, *flags)


def render(scenario: str, *settings: str) -> list[Document]:
    """Return the manifests of a scenario, see `render_text`."""
    return [document for document in yaml.safe_load_all(render_text(scenario, *settings)) if document]


def find(documents: list[Document], kind: str, name: str = "unlensed") -> Document:
    """Return the one manifest of that kind and name."""
    (found,) = (each for each in documents if each["kind"] == kind and each["metadata"]["name"] == name)
    return found


def pods(documents: list[Document]) -> Iterator[tuple[str, Document]]:
    """Yield name and specification of every pod of the manifests."""
    for document in documents:
        if document["kind"] in WORKLOADS:
            spec = document["spec"] if document["kind"] == "Pod" else document["spec"]["template"]["spec"]
            yield f"{document['kind']}/{document['metadata']['name']}", spec


def containers(spec: Mapping[str, Any]) -> list[Document]:
    """Return the containers of a pod in their order of start."""
    return [*spec.get("initContainers", []), *spec.get("containers", [])]


def environment(documents: list[Document], container: Mapping[str, Any]) -> dict[str, str]:
    """Return a container's variables as a kubelet sets them, with examples of a cluster's values."""
    known = {each["metadata"]["name"]: each["data"] for each in documents if each["kind"] == "ConfigMap"}
    variables: dict[str, str] = {}
    for source in container.get("envFrom", []):
        if "configMapRef" in source:
            variables |= known[source["configMapRef"]["name"]]
    for each in container.get("env", []):
        origin = each.get("valueFrom", {})
        if "resourceFieldRef" in origin:
            value = container["resources"]["requests"]["cpu"]
        elif "fieldRef" in origin:
            value = {"metadata.name": "unlensed-0", "metadata.namespace": NAMESPACE}[origin["fieldRef"]["fieldPath"]]
        elif "secretKeyRef" in origin:
            value = "a-password-of-a-test"
        else:
            value = each["value"]
        for name, known_value in variables.items():
            value = value.replace(f"$({name})", known_value)
        variables[each["name"]] = value
    return variables
