"""The services of deploy/compose as processes of this machine: same settings, loopback addresses, no containers.

What is left out: the images, kafka-topics.sh, the network between containers, and Grafana.
"""

import json
import os
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import urlopen

import yaml

from deploy.local.kafka import KafkaServer
from deploy.local.worker import Worker
from tests.deploy.compose import FOLDER
from tests.deploy.images import ROOT, read_stages
from tests.deploy.promql import RULES
from tests.deploy.tools import find_tool
from tests.scorer.stream.kafka_peers import wait_until

START_S = 60


def free_ports(count: int) -> list[int]:
    """Return free ports of the loopback."""
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def make_broker(service: Mapping[str, Any], folder: Path) -> KafkaServer:
    """Return the broker of the service's variables, with a listener `inside` for the others."""
    ports = dict(zip(("29092", "9092", "9093"), map(str, free_ports(3)), strict=True))
    lines = {}
    for name, value in service["environment"].items():
        if name.startswith("KAFKA_"):
            key = name.removeprefix("KAFKA_").lower().replace("_", ".")
            for port, free in ports.items():
                for host in ("//", "kafka", "localhost"):
                    value = value.replace(f"{host}:{port}", f"{'//' if host == '//' else ''}127.0.0.1:{free}")  # noqa: PLW2901 - rewritten step by step
            lines[key] = value
    lines["log.dirs"] = str(folder / "data")
    server = KafkaServer(folder, port=int(ports["9092"]), properties=lines)
    server.ports["INSIDE"] = int(ports["29092"])
    return server


def create_topics(service: Mapping[str, Any], broker: KafkaServer) -> None:
    """Run the service's script."""
    tool = shlex.join([sys.executable, str(ROOT / "tests/deploy/kafka_topics.py")])
    script = service["command"][0].replace("/opt/kafka/bin/kafka-topics.sh", tool)
    script = script.replace("kafka:29092", broker.address("INSIDE"))
    done = subprocess.run(
        [*service["entrypoint"], script],
        env=os.environ | service["environment"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@contextmanager
def running_triton(python: Path, folder: Path) -> Iterator[tuple[str, str]]:
    """Run triton.Dockerfile's target `cpu`; yield the addresses of gRPC and metrics."""
    home, (grpc, metrics) = folder / "tritonserver", free_ports(2)
    subprocess.run([python, ROOT / "deploy/docker/triton_backends.py", home], check=True)
    library = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_config_var('LIBDIR'))"],
        capture_output=True,
        text=True,
        check=True,
    )
    entry = [
        word.replace("=/bundle", f"={ROOT / 'model_repository'}")
        .replace("/opt/tritonserver", str(home))
        .replace("0.0.0.0", "127.0.0.1")  # noqa: S104 - the address of the image is replaced
        for word in read_stages("triton")["cpu"].entrypoint
    ]
    entry += ["--grpc-address=127.0.0.1", f"--grpc-port={grpc}", f"--metrics-port={metrics}"]
    environment = os.environ | {
        "PATH": f"{home / 'bin'}:{python.absolute().parent}:{os.defpath}",
        "LD_LIBRARY_PATH": f"{library.stdout.strip()}:{home / 'lib'}",
    }
    with running([str(home / "bin" / entry[0]), *entry[1:]], folder / "triton.log", environment, grpc):
        yield f"127.0.0.1:{grpc}", f"127.0.0.1:{metrics}"


def make_scorer(service: Mapping[str, Any], addresses: Mapping[str, object], log: Path) -> Worker:
    """Return a worker with the variables of the service; names of containers are replaced."""
    settings = {name.removeprefix("UNLENSED_").lower(): value for name, value in service["environment"].items()}
    return Worker(log, settings | dict(addresses))


@contextmanager
def running_prometheus(targets: Mapping[str, list[dict[str, Any]]], folder: Path) -> Iterator["Prometheus"]:
    """Run a Prometheus with Compose's configuration, scraping each second.

    Args:
        targets: the static configurations that stand for each name of a service.
        folder: for its files.
    """
    configuration = yaml.safe_load((FOLDER / "prometheus.yaml").read_text())
    configuration["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    for job in configuration["scrape_configs"]:
        (names,) = (each["names"] for each in job.pop("dns_sd_configs"))
        job["static_configs"] = [each for name in names for each in targets[name]]
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(configuration))
    (folder / RULES.name).write_text(RULES.read_text())
    (port,) = free_ports(1)
    command = [
        str(find_tool("prometheus")),
        f"--config.file={folder / 'prometheus.yaml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with running(command, folder / "prometheus.log", os.environ, port):
        prometheus = Prometheus(f"http://127.0.0.1:{port}")
        wait_until(prometheus.is_ready, "Prometheus, which listens before it answers")
        yield prometheus


class Prometheus:
    """A running server's HTTP interface."""

    def __init__(self, url: str) -> None:
        self._url = url

    def is_ready(self) -> bool:
        """Return whether it answers queries."""
        try:
            with urlopen(f"{self._url}/-/ready"):  # noqa: S310 - ours
                return True
        except HTTPError:
            return False

    def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """Return the current series of an expression: labels and value."""
        with urlopen(f"{self._url}/api/v1/query?{urlencode({'query': expression})}") as page:  # noqa: S310 - ours
            found = json.load(page)["data"]["result"]
        return [(series["metric"], float(series["value"][1])) for series in found]


@contextmanager
def running(command: list[str], log: Path, environment: Mapping[str, str], port: int) -> Iterator[None]:
    """Run a server during the block, which begins when the server accepts connections."""
    with log.open("wb") as out:
        process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
    try:
        until = time.monotonic() + START_S
        while not _listens(port):
            assert process.poll() is None, log.read_text()[-2000:]
            assert time.monotonic() < until, log.read_text()[-2000:]
            time.sleep(0.05)
        yield
    finally:
        process.terminate()
        process.wait(START_S)


def _listens(port: int) -> bool:
    with closing(socket.socket()) as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
