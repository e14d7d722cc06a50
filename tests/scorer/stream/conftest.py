"""One real broker for all tests of a session, with every kind of listener."""

import os
from collections.abc import Iterator
from itertools import count

import pytest

from deploy.local.kafka import KafkaServer
from scorer.stream.settings import KafkaSettings, StreamSettings
from tests.scorer.stream.certificates import Authority
from tests.scorer.stream.kafka_peers import Site

USER, PASSWORD = "worker", "made for this test"
NAMES = count()


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """A certificate authority that lives as long as the tests."""
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="session")
def kafka_server(tmp_path_factory: pytest.TempPathFactory, authority: Authority) -> Iterator[KafkaServer]:
    """A broker that a test may kill, as long as it starts it again."""
    if os.environ.get("KAFKA_BOOTSTRAP_SERVERS"):
        pytest.skip("KAFKA_BOOTSTRAP_SERVERS names a broker that is not ours to kill or to configure")
    pem = authority.issue("broker")
    trusted = authority.folder / "ca.pem"
    properties = {
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(pem),
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": str(trusted),
        "listener.name.mutual.ssl.client.auth": "required",
        "listener.name.secure.sasl.enabled.mechanisms": "SCRAM-SHA-512",
        "listener.name.secure.scram-sha-512.sasl.jaas.config": (
            "org.apache.kafka.common.security.scram.ScramLoginModule required;"
        ),
    }
    listeners = {"SECURE": "SASL_SSL", "MUTUAL": "SSL"}
    folder = tmp_path_factory.mktemp("kafka")
    with KafkaServer(folder, listeners=listeners, properties=properties, users={USER: PASSWORD}) as server:
        yield server


@pytest.fixture
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    """Topics and a group of this test's own, on our broker or on the one that `KAFKA_BOOTSTRAP_SERVERS` names."""
    name = f"t{os.getpid()}-{next(NAMES)}"
    bootstrap = os.environ.get("KAFKA_BOOTSTRAP_SERVERS") or request.getfixturevalue("kafka_server").bootstrap
    stream = StreamSettings(
        group=name, requests=f"{name}.requests", results=f"{name}.results", dead_letters=f"{name}.dead"
    )
    site = Site(KafkaSettings(bootstrap=bootstrap, session_timeout_s=3), stream)
    try:
        yield site
    finally:
        site.close()
