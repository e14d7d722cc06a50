"""deploy/kafka/acls.sh on a real broker: its rights are enough, and are needed."""

import base64
import json
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from deploy.local.kafka import KafkaServer
from deploy.local.worker import Worker
from scorer.messages import DeadLetterCode
from scorer.settings import KafkaSettings, StreamSettings
from scorer.stream.broker import Outgoing, Record
from scorer.stream.dead_letters import make_dead_letter
from tests.deploy.images import ROOT
from tests.scorer.stream.kafka_peers import Site, wait_until

USERS = {"unlensed": "w", "operator": "o", "nobody": "n"}
TOOL = [sys.executable, str(ROOT / "tests/deploy/kafka_acls.py")]


@dataclass
class Guarded:
    """A broker with users; clients of its plain listener have all rights."""

    broker: KafkaServer
    folder: Path
    request: bytes

    def site(self) -> Site:
        """Return access to the topics with all rights."""
        return Site(KafkaSettings(bootstrap=self.broker.bootstrap), StreamSettings())

    def variables(self, user: str) -> dict[str, object]:
        """Return the settings of a process that connects as this user."""
        return {
            "bundle": ROOT / "model_repository",
            "insecure_dev": "true",
            "kafka__bootstrap": self.broker.address("USERS"),
            "kafka__security": "sasl_plaintext",
            "kafka__username": user,
            "kafka__password": USERS[user],
        }


@pytest.fixture(scope="module")
def guarded(portrait: bytes, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    """A broker with the topics, and the rights that the script sets."""
    folder = tmp_path_factory.mktemp("acls")
    properties = {
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": "User:ANONYMOUS",
        "sasl.enabled.mechanisms": "SCRAM-SHA-512",
        "listener.name.users.scram-sha-512.sasl.jaas.config": (
            "org.apache.kafka.common.security.scram.ScramLoginModule required;"
        ),
    }
    listeners = {"USERS": "SASL_PLAINTEXT"}
    with KafkaServer(folder / "kafka", listeners=listeners, properties=properties, users=USERS) as broker:
        image = {"bytes": base64.b64encode(portrait).decode()}
        guarded = Guarded(broker, folder, json.dumps({"request_id": "r", "content_id": "c", "image": image}).encode())
        for topic in ("requests", "results", "dead-letters", "results.shadow", "dead-letters.shadow"):
            broker.create_topic(f"unlensed.{topic}")
        for role, user in (("shadow", "unlensed"), ("letters", "operator")):
            grant(role, f"User:{user}", broker.bootstrap)
        yield guarded


def grant(role: str, principal: str, bootstrap: str) -> "subprocess.CompletedProcess[str]":
    """Run the script with the replacement of its tool."""
    command = [ROOT / "deploy/kafka/acls.sh", role, principal, *TOOL, "--bootstrap-server", bootstrap]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{shlex.join(map(str, command))}: {done.stdout}{done.stderr}"
    return done


def test_worker_has_the_rights_it_needs(guarded: Guarded, tmp_path: Path) -> None:
    """A shadow answers exactly once and writes dead letters, which needs all rights."""
    site = guarded.site()
    topics = ["unlensed.results.shadow", "unlensed.dead-letters.shadow"]
    settings = {"stream__mode": "shadow", "stream__delivery": "exactly_once"}
    with Worker(tmp_path / "worker.log", guarded.variables("unlensed") | settings) as worker:
        worker.wait_ready()
        site.produce(Outgoing("unlensed.requests", None, value) for value in (guarded.request, b"no request"))
        wait_until(lambda: not worker.pid or all(site.read(topic) for topic in topics), "an answer and a dead letter")
        assert worker.stop() == 0, worker.read_log()[-2000:]
    site.close()


def test_worker_without_rights_is_refused(guarded: Guarded, tmp_path: Path) -> None:
    """A worker without rights exits with 78, so this broker does deny access."""
    with Worker(tmp_path / "worker.log", guarded.variables("nobody")) as worker:
        wait_until(lambda: not worker.pid, "the refusal")
        assert worker.exit_code == 78, worker.read_log()[-2000:]


def test_operator_replays_dead_letters(guarded: Guarded) -> None:
    """`unlensed dlq replay` works with the rights of the role `letters`."""
    site = guarded.site()
    record = Record("unlensed.requests", 0, 7, 1, None, b"sent back")
    code, where = DeadLetterCode.NOT_JSON, "unlensed.dead-letters"
    letter = make_dead_letter(record, where, code, "not JSON", attempts=1, bundle_digest="d")
    site.connect()[1].deliver([letter])
    variables = {f"UNLENSED_{name}".upper(): str(value) for name, value in guarded.variables("operator").items()}
    done = subprocess.run(
        [Path(sys.executable).parent / "unlensed", "dlq", "replay", "--yes"],
        env={"PATH": "/usr/bin:/bin"} | variables,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert b"sent back" in [record.value for record in site.read("unlensed.requests")], done.stderr
    site.close()
