"""A real Apache Kafka broker on this machine's loopback, for a developer, the tests and the benchmarks.

`python deploy/local/kafka.py` runs one until SIGTERM or Ctrl-C; `KafkaServer` is a context manager for the same.
It needs Java 17, and Maven once, to fetch the jars into `.kafka/` of this checkout.
"""

import argparse
import base64
import hashlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from types import TracebackType
from typing import Self

HERE = Path(__file__).resolve().parent
POM = HERE / "pom.xml"
CACHE = HERE.parent.parent / ".kafka"
JARS_VARIABLE = "UNLENSED_KAFKA_JARS"
START_S = 60
STOP_S = 20

LOGGING = """
status = error
appender.console.type = Console
appender.console.name = console
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %d{ISO8601} %p %c{1}: %m%n
rootLogger.level = info
rootLogger.appenderRef.console.ref = console
"""


class KafkaUnavailable(RuntimeError):
    """The broker cannot run here; the message states what is missing."""


def find_jars() -> Path:
    """Return the folder with the broker's jars; Maven fetches them if they are missing.

    Raises:
        KafkaUnavailable: neither the jars nor the tools to fetch them.
    """
    if folder := os.environ.get(JARS_VARIABLE):
        if not list(Path(folder).glob("kafka-server-*.jar")):
            message = f"{JARS_VARIABLE} names {folder}, which contains no kafka-server-*.jar"
            raise KafkaUnavailable(message)
        return Path(folder)
    lib = CACHE / hashlib.sha256(POM.read_bytes()).hexdigest()[:12]
    if lib.is_dir():
        return lib
    maven = _tool("mvn", "maven")
    CACHE.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as fetched:
        fetch = subprocess.run(  # noqa: S603 - fixed arguments
            [maven, "-q", "-B", "-f", str(POM), "dependency:copy-dependencies", f"-DoutputDirectory={fetched}/lib"],
            capture_output=True,
            text=True,
            check=False,
        )
        if fetch.returncode:
            message = f"Maven could not fetch the broker's jars: {fetch.stdout[-2000:]}{fetch.stderr[-500:]}"
            raise KafkaUnavailable(message)
        try:
            Path(fetched, "lib").rename(lib)
        except OSError:  # another process fetched them at the same time
            if not lib.is_dir():
                raise
    return lib


class KafkaServer:
    """One broker that is its own controller; it stops with the context, and keeps data and ports over restarts.

    Args:
        folder: of data, configuration and `broker.log`.
        port: of the plaintext listener; 0 takes a free one.
        listeners: further listeners, name -> protocol, for example {"SECURE": "SASL_SSL"}; each gets a free port.
        properties: further lines of server.properties.
        users: SCRAM-SHA-512 users and their passwords.
        heap_mib: maximum size of Java's heap in MiB.
    """

    def __init__(  # noqa: PLR0913 - one argument for each property of a broker
        self,
        folder: Path,
        *,
        port: int = 0,
        listeners: Mapping[str, str] | None = None,
        properties: Mapping[str, str] | None = None,
        users: Mapping[str, str] | None = None,
        heap_mib: int = 512,
    ) -> None:
        self._folder = folder
        self._jars = find_jars()
        self._java = _tool("java", "default-jre-headless")
        self._heap_mib = heap_mib
        self._process: subprocess.Popen[bytes] | None = None
        protocols = {"PLAINTEXT": "PLAINTEXT", **(listeners or {}), "CONTROLLER": "PLAINTEXT"}
        self.ports = dict(zip(protocols, _free_ports(len(protocols)), strict=True))
        self.ports["PLAINTEXT"] = port or self.ports["PLAINTEXT"]
        folder.mkdir(parents=True, exist_ok=True)
        self._write_configuration(protocols, properties or {})
        if not (folder / "data" / "meta.properties").exists():
            self._format(users or {})

    @property
    def bootstrap(self) -> str:
        """Host and port of the plaintext listener."""
        return self.address("PLAINTEXT")

    @property
    def log(self) -> Path:
        """The broker's log file."""
        return self._folder / "broker.log"

    @property
    def pid(self) -> int | None:
        """The broker's process, None when it does not run."""
        return self._process.pid if self._process and self._process.poll() is None else None

    def address(self, listener: str) -> str:
        """Return host and port of a listener."""
        return f"127.0.0.1:{self.ports[listener]}"

    def start(self) -> None:
        """Start, and wait until the broker accepts connections.

        Raises:
            KafkaUnavailable: it exited or accepts no connection; the message contains the end of its log.
        """
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 - fixed arguments
                [*self._command("kafka.Kafka"), str(self._folder / "server.properties")],
                stdin=subprocess.DEVNULL,
                process_group=0,  # Ctrl-C reaches the parent only, which then stops the broker in order
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline and self._process.poll() is None:
            with closing(socket.socket()) as probe:
                if probe.connect_ex(("127.0.0.1", self.ports["PLAINTEXT"])) == 0:
                    return
            time.sleep(0.05)
        self.kill()
        message = f"the broker did not start; {self.log} ends with: {self.log.read_text(errors='replace')[-2000:]}"
        raise KafkaUnavailable(message)

    def stop(self) -> None:
        """Stop it with SIGTERM, or with SIGKILL after 20 s."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Stop it with SIGKILL, as in a crash."""
        self._end(signal.SIGKILL)

    def create_topic(self, name: str, partitions: int = 1, **configs: str) -> None:
        """Create a topic and return when every partition has a leader; topic settings with `_` for `.`."""
        from kafka import KafkaAdminClient  # noqa: PLC0415 - only creating topics needs the client

        admin = KafkaAdminClient(bootstrap_servers=self.bootstrap)
        try:
            settings = {key.replace("_", "."): value for key, value in configs.items()}
            topic = {"num_partitions": partitions, "replication_factor": 1, "configs": settings}
            admin.create_topics({name: topic}, wait_for_metadata=True)
        finally:
            admin.close()

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _end(self, how: signal.Signals) -> None:
        if self._process is None:
            return
        self._process.send_signal(how)
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def _command(self, entry: str) -> list[str]:
        return [
            self._java,
            f"-Xmx{self._heap_mib}m",
            "-XX:+UseSerialGC",  # a broker for one developer starts sooner and takes less without parallel collectors
            "-XX:TieredStopAtLevel=1",
            f"-Dlog4j2.configurationFile={self._folder / 'log4j2.properties'}",
            "-cp",
            f"{self._jars}/*",
            entry,
        ]

    def _write_configuration(self, protocols: Mapping[str, str], properties: Mapping[str, str]) -> None:
        where = {name: f"{name}://{self.address(name)}" for name in protocols}
        lines = {
            "process.roles": "broker,controller",
            "node.id": "1",
            "listeners": ",".join(where.values()),
            "advertised.listeners": ",".join(url for name, url in where.items() if name != "CONTROLLER"),
            "listener.security.protocol.map": ",".join(f"{name}:{protocol}" for name, protocol in protocols.items()),
            "inter.broker.listener.name": "PLAINTEXT",
            "controller.listener.names": "CONTROLLER",
            "controller.quorum.voters": f"1@{self.address('CONTROLLER')}",
            "log.dirs": str(self._folder / "data"),
            "auto.create.topics.enable": "false",
            "message.max.bytes": str(64 << 20),
            "offsets.topic.replication.factor": "1",
            "offsets.topic.num.partitions": "4",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
            "transaction.state.log.num.partitions": "4",
            "share.coordinator.state.topic.replication.factor": "1",
            "share.coordinator.state.topic.min.isr": "1",
            "group.initial.rebalance.delay.ms": "0",
            "group.min.session.timeout.ms": "1000",
            "log.cleaner.enable": "false",
            "broker.heartbeat.interval.ms": "500",
            "broker.session.timeout.ms": "2000",  # a killed broker can register again after this
            **properties,
        }
        text = "".join(f"{key}={value}\n" for key, value in lines.items())
        (self._folder / "server.properties").write_text(text)
        (self._folder / "log4j2.properties").write_text(LOGGING)

    def _format(self, users: Mapping[str, str]) -> None:
        cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        arguments = ["format", "-t", cluster.replace("-", "a"), "-c", str(self._folder / "server.properties")]
        for name, password in users.items():
            arguments += ["--add-scram", f"SCRAM-SHA-512=[name={name},password={password}]"]
        done = subprocess.run(  # noqa: S603 - fixed arguments
            [*self._command("kafka.tools.StorageTool"), *arguments], capture_output=True, text=True, check=False
        )
        if done.returncode:
            message = f"the broker's data folder could not be made: {done.stdout[-1000:]}{done.stderr[-1000:]}"
            raise KafkaUnavailable(message)


def _tool(name: str, package: str) -> str:
    if path := shutil.which(name):
        return path
    message = f"the local Kafka broker needs {name}, which is not on the PATH (Debian: apt-get install {package})"
    raise KafkaUnavailable(message)


def _free_ports(count: int) -> list[int]:
    with ExitStack() as held:
        sockets = [held.enter_context(closing(socket.socket())) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def main() -> None:
    """Run a broker with the service's topics until SIGTERM or Ctrl-C."""
    parser = argparse.ArgumentParser(description="Runs a Kafka broker on the loopback until SIGTERM or Ctrl-C.")
    parser.add_argument("--port", type=int, default=9092)
    parser.add_argument("--data", type=Path, help="keep the data in this folder [default: a temporary one]")
    parser.add_argument("--topic", action="append", metavar="NAME[:PARTITIONS]", help="create this topic; repeatable")
    arguments = parser.parse_args()
    stopping = threading.Event()
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, lambda *_: stopping.set())
    with ExitStack() as held:
        folder = arguments.data or Path(held.enter_context(tempfile.TemporaryDirectory(prefix="unlensed-kafka-")))
        try:
            server = held.enter_context(KafkaServer(folder.absolute(), port=arguments.port))
            for topic in arguments.topic or ():
                name, _, partitions = topic.partition(":")
                server.create_topic(name, int(partitions or 1))
        except KafkaUnavailable as error:
            sys.exit(f"kafka: {error}")
        print(f"Kafka is ready at {server.bootstrap}, its log is {server.log}", flush=True)  # noqa: T201 - the output
        while not stopping.wait(1):
            if server.pid is None:
                sys.exit(f"kafka: the broker exited; {server.log} shows why")


if __name__ == "__main__":
    sys.path.pop(0)  # this folder, in which a file named kafka.py hides the client package of that name
    main()
