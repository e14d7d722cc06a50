"""The chart's HTTP service: its pod runs `unlensed api`, is reached by listed clients only, and scales by its queue."""

import json
import math
import os
import signal
import ssl
import subprocess
import sys
import urllib.request
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlsplit

import pytest
import yaml

from scorer.bundle.bundle import read_bundle
from scorer.observe import trace_context
from tests.deploy.chart import Document, environment, find, pods, render
from tests.deploy.tools import ROOT, find_tool
from tests.scorer.stream.certificates import Authority

NAME = "unlensed-api"
TOKEN = "a-token-of-prometheus-in-a-test"  # noqa: S105 - of this test only
COMMAND = "from scorer.commands.main import main; main()"
CLIENTS = 'networkPolicy.apiFrom=[{"podSelector":{}}]'


def get_pod(documents: list[Document]) -> Document:
    """Return the specification of the pods."""
    spec: Document = find(documents, "Deployment", NAME)["spec"]["template"]["spec"]
    return spec


def place_files(documents: list[Document], folder: Path) -> dict[str, str]:
    """Write the files that the pod mounts into `folder`, and return the pod's variables with their places there."""
    certificate = Authority(folder).issue("api").read_text()
    for name, text in {
        "api/tls.crt": certificate,
        "api/tls.key": certificate,
        "api/tokens": f"{TOKEN}\n",
        "policies/policies.toml": find(documents, "ConfigMap", "unlensed-policies")["data"]["policies.toml"],
    }.items():
        file = folder / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
    (scorer,) = get_pod(documents)["containers"]
    variables = environment(documents, scorer)
    moved = {name: value.replace("/etc/unlensed", str(folder)) for name, value in variables.items()}
    return moved | {"UNLENSED_BUNDLE": str(ROOT / "model_repository"), "UNLENSED_API__PORT": "0"}


def test_the_pod_runs_the_service(tmp_path: Path) -> None:
    """With the pod's files the service answers the probes, a scrape and `helm test` by TLS, and stops in time."""
    documents = render("api")
    spec, monitor = get_pod(documents), find(documents, "PodMonitor")["spec"]
    (scorer,) = spec["containers"]
    (scrape,) = (each for each in monitor["podMetricsEndpoints"] if each["port"] == scorer["ports"][0]["name"])
    assert {scrape["scheme"]} == {
        scorer[f"{each}Probe"]["httpGet"]["scheme"].lower() for each in ("liveness", "readiness")
    }
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, *scorer["command"][1:]],
        env=os.environ | place_files(documents, tmp_path),
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr
    try:
        url = next(line["url"] for line in map(json.loads, process.stderr) if "url" in line)
        trusted = ssl.create_default_context(cafile=tmp_path / "ca.pem")

        def get(path: str, **headers: str) -> str:
            request = urllib.request.Request(f"https://127.0.0.1:{urlsplit(url).port}{path}", headers=headers)
            with urllib.request.urlopen(request, context=trusted, timeout=30) as answer:  # noqa: S310 - https
                return str(answer.read().decode())

        for probe in ("startup", "liveness", "readiness"):
            assert json.loads(get(scorer[f"{probe}Probe"]["httpGet"]["path"]))["ok"]
        with pytest.raises(HTTPError, match="401"):
            get(scrape["path"])
        assert "unlensed_in_flight_images 0.0" in get(scrape["path"], Authorization=f"Bearer {TOKEN}")
        program, asked = find(documents, "Pod", "unlensed-test")["spec"]["containers"][0]["args"]
        program = program.replace("/etc/unlensed/api", str(tmp_path / "api"))
        (tmp_path / "api" / "ca.crt").write_bytes((tmp_path / "ca.pem").read_bytes())
        place, _, stated = asked.partition("=")
        assert place == f"https://{NAME}.faces.svc:8000"
        for digest, refused in ((stated, True), (read_bundle(ROOT / "model_repository").model.digest, False)):
            command = [sys.executable, "-c", program, f"https://127.0.0.1:{urlsplit(url).port}={digest}"]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            assert bool(done.returncode) == refused == (f"does not serve the bundle {digest}" in done.stderr), (
                done.stderr
            )
        process.send_signal(signal.SIGTERM)
        assert process.wait(spec["terminationGracePeriodSeconds"]) == 0
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def test_a_release_of_its_own_has_no_brokers() -> None:
    """No workers, no address of a broker, no policy for them; the scraped name is that of the Service."""
    documents = render("api")
    assert [name for name, _ in pods(documents)] == [f"Deployment/{NAME}", "Pod/unlensed-test"]
    (scorer,) = get_pod(documents)["containers"]
    assert "UNLENSED_KAFKA__BOOTSTRAP" not in environment(documents, scorer)
    assert not [each for each in documents if each["metadata"]["name"] == "unlensed-workers"]
    service = find(documents, "Service", NAME)
    (endpoint,) = (
        each for each in find(documents, "PodMonitor")["spec"]["podMetricsEndpoints"] if each["port"] == "api"
    )
    assert endpoint["tlsConfig"]["serverName"] == f"{service['metadata']['name']}.faces.svc"
    labels = find(documents, "Deployment", NAME)["spec"]["template"]["metadata"]["labels"]
    for selector in (
        service["spec"]["selector"],
        find(documents, "PodDisruptionBudget", NAME)["spec"]["selector"]["matchLabels"],
    ):
        assert selector.items() <= labels.items()


def test_there_is_none_by_default() -> None:
    """A release of workers has nothing of the HTTP service."""
    assert not [each for each in render("scram") if each["metadata"]["name"] == NAME]


def test_it_runs_beside_workers_with_the_serving_bundle() -> None:
    """With remote Tritons it asks those of the serving bundle, over mutual TLS, and may reach them."""
    settings = ("api.replicas=3", 'api.tokenSecret={"name":"t","scrapeKey":"p"}', 'api.certificateSecret="c"', CLIENTS)
    documents = render("gpu-remote", *settings)
    assert find(documents, "Deployment", NAME)["spec"]["replicas"] == 3
    worker = find(documents, "StatefulSet")["spec"]["template"]["spec"]["containers"][0]
    triton = {name: value for name, value in environment(documents, worker).items() if "TRITON" in name}
    (scorer,) = get_pod(documents)["containers"]
    assert triton["UNLENSED_TRITON__TLS"] == "true"
    assert triton.items() <= environment(documents, scorer).items()
    assert "nvidia.com/gpu" not in scorer["resources"]["limits"]
    role = find(documents, "Deployment", NAME)["spec"]["template"]["metadata"]["labels"]["unlensed/role"]
    asked = find(documents, "NetworkPolicy", "unlensed-triton")["spec"]["ingress"][0]["from"][0]["podSelector"]
    asking = find(documents, "NetworkPolicy", "unlensed-scorers")["spec"]["podSelector"]
    assert asked == asking
    assert {role, "worker"} == set(asked["matchExpressions"][0]["values"])


@pytest.mark.parametrize(("mode", "surge"), [("none", 0), ("sidecar", 0), ("remote", 1)])
def test_a_pod_with_a_gpu_stops_before_the_next_starts(mode: str, surge: int) -> None:
    """Where the pods have GPUs, a rollout needs no further one; else a new pod is ready before an old one stops."""
    settings = ("api.replicas=1", "insecureDev=true", CLIENTS, f'triton.mode="{mode}"', 'triton.serverSecret="s"')
    deployment = find(render("gpu-sidecar", *settings, 'triton.clientSecret="c"'), "Deployment", NAME)
    update = deployment["spec"]["strategy"]["rollingUpdate"]
    assert update == {"maxSurge": surge, "maxUnavailable": 1 - surge}


def test_only_listed_clients_and_prometheus_connect() -> None:
    """Ingress to the port: the clients of apiFrom, `helm test`, and scrapes; the pods reach no broker."""
    documents = render("api")
    (clients,) = find(documents, "NetworkPolicy", NAME)["spec"]["ingress"]
    listed, test = clients["from"]
    assert listed == {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "moderation"}}}
    labels = find(documents, "Pod", "unlensed-test")["metadata"]["labels"]
    assert test["podSelector"]["matchLabels"].items() <= labels.items()
    (allowed,) = find(documents, "NetworkPolicy", "unlensed-test")["spec"]["egress"]
    assert {"port": "api"} in allowed["ports"]
    everybody = find(documents, "NetworkPolicy")["spec"]
    assert {"port": "api"} in everybody["ingress"][0]["ports"]
    assert {port["port"] for rule in everybody["egress"] for port in rule["ports"]} == {53}


@pytest.mark.parametrize("drain_s", ["25", "0.5", "600"])
@pytest.mark.parametrize(("scenario", "sidecar_s"), [("api", 0), ("gpu-sidecar", 10)])
def test_grace_is_longer_than_the_stop(scenario: str, sidecar_s: int, drain_s: str) -> None:
    """The kubelet waits until no Service sends, then for drain, end, a sidecar's end and a margin."""
    settings = ("api.replicas=1", "insecureDev=true", CLIENTS, f"settings.api.drain_s={drain_s}")
    spec = get_pod(render(scenario, *settings))
    (scorer,) = spec["containers"]
    before_s = scorer["lifecycle"]["preStop"]["sleep"]["seconds"]
    least_s = before_s + float(drain_s) + 5 + trace_context.FLUSH_S + sidecar_s + 5
    assert before_s > 0
    assert spec["terminationGracePeriodSeconds"] == math.ceil(least_s)


def test_a_development_network_needs_no_secrets() -> None:
    """With insecureDev the service is plain HTTP without files; its scrape sends no token."""
    bare = ("insecureDev=true", 'api.tokenSecret.name=""', 'api.certificateSecret=""')
    documents = render("api", *bare)
    spec = get_pod(documents)
    (scorer,) = spec["containers"]
    assert not {name for name in environment(documents, scorer) if name.startswith("UNLENSED_API__") and "FILE" in name}
    assert not [each for each in spec["volumes"] if each["name"] == "api"]
    assert scorer["readinessProbe"]["httpGet"]["scheme"] == "HTTP"
    endpoint = find(documents, "PodMonitor")["spec"]["podMetricsEndpoints"][1]
    assert endpoint.keys() == {"port", "path", "interval", "scheme"}


def test_pods_are_added_by_the_queue(tmp_path: Path) -> None:
    """In Prometheus: the images in flight of all pods of this service, or 0; KEDA divides them by the pods."""
    documents = render("api")
    scaler = find(documents, "ScaledObject", NAME)["spec"]
    assert scaler["scaleTargetRef"]["name"] == NAME
    assert "replicas" not in find(documents, "Deployment", NAME)["spec"]
    (trigger,) = scaler["triggers"]
    assert trigger["metricType"] == "AverageValue"
    queue = "unlensed_in_flight_images"
    series = [
        (f'{queue}{{namespace="faces",pod="{NAME}-5d-a",unlensed_stage="api"}}', 40),
        (f'{queue}{{namespace="faces",pod="{NAME}-5d-b",unlensed_stage="api"}}', 24),
        (f'{queue}{{namespace="faces",pod="unlensed-0",unlensed_stage="live"}}', 100),  # a worker
        (f'{queue}{{namespace="other",pod="{NAME}-5d-a",unlensed_stage="api"}}', 100),
        (f'{queue}{{namespace="faces",pod="{NAME}-api-5d-a",unlensed_stage="api"}}', 100),  # of a release unlensed-api
    ]

    def case(given: list[tuple[str, int]], value: float) -> dict[str, object]:
        expected = {"expr": trigger["metadata"]["query"], "eval_time": "10m", "exp_samples": [{"value": value}]}
        inputs = [{"series": name, "values": f"{each}x20"} for name, each in given]
        return {"interval": "30s", "input_series": inputs, "promql_expr_test": [expected]}

    file = tmp_path / "queue.yaml"
    file.write_text(yaml.safe_dump({"rule_files": [], "tests": [case(series, 64), case([], 0)]}))
    run = subprocess.run([find_tool("promtool"), "test", "rules", file], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
