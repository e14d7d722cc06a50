"""What the chart tells the service is what the service understands."""

import os
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from pydantic import BaseModel
from typer.main import get_command

from scorer.commands.main import app
from scorer.observe import trace_context
from scorer.settings import Settings, load_settings
from scorer.stream.kafka import source
from tests.deploy.chart import CHART, SCENARIOS, containers, environment, find, pods, render

# Settings that the chart derives from `kafka`, `api`, `triton`, `rollout` and the pod.
OWN = {
    *("bundle", "bundle_digest", "bundle_key", "threads", "insecure_dev"),
    *("stream.mode", "stream.policies", "health.host", "health.port"),
    *("api.host", "api.port", "api.policies", "api.token_file", "api.certificate_file", "api.key_file"),
    *("triton.url", "triton.tls", "triton.ca_file", "triton.certificate_file", "triton.key_file"),
    *("kafka.bootstrap", "kafka.security", "kafka.sasl_mechanism", "kafka.username", "kafka.password"),
    *("kafka.token_file", "kafka.ca_file", "kafka.certificate_file", "kafka.key_file", "kafka.instance_id"),
}
ABSENT = ("provenance.", "policy.statements")  # the images lack the extra `provenance`


@pytest.fixture
def clean(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An environment without settings."""
    for name in [name for name in os.environ if name.startswith("UNLENSED_")]:
        monkeypatch.delenv(name)
    return monkeypatch


def flatten(fields: dict[str, Any]) -> dict[str, Any]:
    """Return sections' entries as `section.name`."""
    flat: dict[str, Any] = {}
    for name, value in fields.items():
        flat |= {f"{name}.{key}": each for key, each in value.items()} if isinstance(value, dict) else {name: value}
    return flat


def unlensed_containers() -> Iterator[tuple[str, list[dict[str, Any]], dict[str, Any]]]:
    """Yield every container of every scenario that runs the command."""
    for scenario in SCENARIOS:
        documents = render(scenario)
        for pod, spec in pods(documents):
            for container in containers(spec):
                yield f"{scenario} {pod} {container['name']}", documents, container


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_service_accepts_every_variable(scenario: str, clean: pytest.MonkeyPatch) -> None:
    """`load_settings` accepts the variables of each container."""
    documents = render(scenario)
    for _, spec in pods(documents):
        for container in containers(spec):
            with clean.context() as patch:
                for name, value in environment(documents, container).items():
                    patch.setenv(name, value)
                load_settings()


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_files_in_settings_are_mounted(scenario: str) -> None:
    """Each `kafka.*_file` or `api.*_file` is mounted; a token is for brokers only."""
    documents = render(scenario)
    volumes = {"StatefulSet": "kafka", "Deployment": "api"}
    for document in documents:
        spec = document.get("spec", {}).get("template", {}).get("spec", {})
        volume, scorers = volumes.get(document["kind"]), [each for each in containers(spec) if each["name"] == "scorer"]
        if not volume or not scorers:
            continue
        (scorer,) = scorers
        files = re.compile(f"UNLENSED_{volume.upper()}__.*_FILE")
        told = {value for name, value in environment(documents, scorer).items() if files.match(name)}
        places = {mount["name"]: mount["mountPath"] for mount in scorer["volumeMounts"]}
        sources = next((each["projected"]["sources"] for each in spec["volumes"] if each["name"] == volume), [])
        secrets = [item["path"] for source in sources for item in source.get("secret", {}).get("items", [])]
        tokens = [source["serviceAccountToken"] for source in sources if "serviceAccountToken" in source]
        assert all(token["audience"] == "kafka" for token in tokens)
        assert told == {f"{places[volume]}/{name}" for name in [*secrets, *(token["path"] for token in tokens)]}


def test_values_become_the_settings_they_name(clean: pytest.MonkeyPatch) -> None:
    """Numbers keep their digits, lists are lists, and a worker has the name of its pod."""
    documents = render(
        "cpu", "settings.stream.max_in_flight_bytes=9007199254740993", 'settings.payloads.https_hosts=["a.example"]'
    )
    (worker,) = find(documents, "StatefulSet")["spec"]["template"]["spec"]["containers"]
    for name, value in environment(documents, worker).items():
        clean.setenv(name, value)
    settings = load_settings()
    assert abs(settings.stream.max_in_flight_bytes - 9007199254740993) <= 1
    assert settings.payloads.https_hosts == ("a.example",)
    assert settings.kafka.instance_id == "faces.unlensed-0"
    assert settings.stream.delivery == "exactly_once"
    assert settings.threads == 2
    assert str(settings.stream.policies) == "/etc/unlensed/policies/policies.toml"


def test_defaults_are_the_services() -> None:
    """values.yaml lists every setting that the chart does not decide itself, with the service's own default.

    A flag rate that is stated would be one that somebody set: it is refused where the bundle does not support it.
    """
    values = flatten(yaml.safe_load((CHART / "values.yaml").read_text())["settings"])
    defaults = flatten(BaseModel.model_dump(Settings.model_construct(), mode="json"))
    left_empty = {"policy.flag_false_alarm_rate": ""}
    own = {name for name in defaults if name in OWN or name.startswith(ABSENT)}
    assert values == {name: value for name, value in defaults.items() if name not in own} | left_empty


def test_an_empty_flag_rate_is_the_default_of_the_service(clean: pytest.MonkeyPatch) -> None:
    """The empty rate of the chart sets no rate; a given one does."""
    for given, rate in (("", 0.01), ("settings.policy.flag_false_alarm_rate=0.02", 0.02)):
        documents = render("cpu", *filter(None, [given]))
        (worker,) = find(documents, "StatefulSet")["spec"]["template"]["spec"]["containers"]
        for name, value in environment(documents, worker).items():
            clean.setenv(name, value)
        policy = load_settings().policy
        assert policy.flag_false_alarm_rate == rate
        assert ("flag_false_alarm_rate" in policy.model_fields_set) is bool(given)


def test_commands_and_flags_exist() -> None:
    """The command line parses every `unlensed ...` of the chart."""
    root = get_command(app)
    seen = set()
    for where, _, container in unlensed_containers():
        line = [*container["command"], *container.get("args", [])]
        if line[0] != "unlensed":
            continue
        command, rest = root, line[1:]
        while hasattr(command, "commands"):
            name, *rest = rest
            command = command.commands[name]
        command.make_context(where, rest)  # raises a usage error
        seen.add(line[1])
    assert seen == {"api", "serve", "scan", "compare", "bundle"}


def test_fixed_parts_of_the_drain_are_those_of_the_service() -> None:
    """The constants in _timing.tpl are not below those of the code."""
    timing = (CHART / "templates" / "_timing.tpl").read_text()
    assert f'"unlensed.commitSeconds" -}}}}{source.COMMIT_S}{{' in timing
    # deliverer 1, producers 2, canary 1, health 0.2, and the spans
    assert f'"unlensed.endSeconds" -}}}}{5 + trace_context.FLUSH_S:.0f}{{' in timing
