"""One real broker for all tests of a session, with every kind of listener."""

import os
from collections.abc import Callable, Iterator

import pytest

from deploy.local.kafka import KafkaServer
from scorer.settings import KafkaSettings, StreamSettings
from tests.scorer.stream.certificates import Authority
from tests.scorer.stream.kafka_peers import Site

USER, PASSWORD = "worker", "made for this test"


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """A certificate authority that lives as long as the tests."""
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="session")
def kafka_server(tmp_path_factory: pytest.TempPathFactory, authority: Authority) -> Iterator[KafkaServer]:
    """A broker that a test may kill if it starts it again."""
    if os.environ.get("KAFKA_BOOTSTRAP_SERVERS"):
        pytest.skip("KAFKA_BOOTSTRAP_SERVERS names a broker that the tests must not kill or configure")
    pem = authority.issue("broker")
    trusted = authority.folder / "ca.pem"
    properties = {
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(pem),
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": str(trusted),
        "listener.name.mutual.ssl.client.auth": "required",
        "listener.name.secure.sasl.enabled.mechanisms": "SCRAM-SHA-512,PLAIN,OAUTHBEARER",
        "listener.name.secure.plain.sasl.jaas.config": (
            f'org.apache.kafka.common.security.plain.PlainLoginModule required user_{USER}="{PASSWORD}";'
        ),
        "listener.name.secure.scram-sha-512.sasl.jaas.config": (
            "org.apache.kafka.common.security.scram.ScramLoginModule required;"
        ),
        # Accepts unsigned tokens until they expire; a connection ends with its token.
        "listener.name.secure.oauthbearer.sasl.jaas.config": (
            "org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required;"
        ),
        "listener.name.secure.oauthbearer.connections.max.reauth.ms": "3600000",
    }
    listeners = {"SECURE": "SASL_SSL", "MUTUAL": "SSL"}
    folder = tmp_path_factory.mktemp("kafka")
    with KafkaServer(folder, listeners=listeners, properties=properties, users={USER: PASSWORD}) as server:
        yield server


@pytest.fixture(scope="session")
def open_site(request: pytest.FixtureRequest) -> Iterator[Callable[[], Site]]:
    """Name topics and a group, on the tests' broker or `KAFKA_BOOTSTRAP_SERVERS`."""
    bootstrap = os.environ.get("KAFKA_BOOTSTRAP_SERVERS") or request.getfixturevalue("kafka_server").bootstrap
    sites: list[Site] = []

    def open_one() -> Site:
        name = f"t{os.getpid()}-{len(sites)}"
        stream = StreamSettings(
            group=name, requests=f"{name}.requests", results=f"{name}.results", dead_letters=f"{name}.dead"
        )
        sites.append(Site(KafkaSettings(bootstrap=bootstrap, session_timeout_s=3), stream))
        return sites[-1]

    yield open_one
    for site in sites:
        site.close()


@pytest.fixture
def site(open_site: Callable[[], Site]) -> Iterator[Site]:
    """Topics and a group for one test."""
    site = open_site()
    yield site
    site.close()
