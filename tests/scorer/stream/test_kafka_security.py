"""Identity and trust, on the real broker's SASL_SSL and mutual TLS listeners."""

import threading
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import SecretStr

from deploy.local.kafka import KafkaServer
from scorer.settings import SettingsError
from scorer.stream.broker import BrokerRefused, BrokerUnavailable
from scorer.stream.kafka_client import Brokers
from scorer.stream.kafka_security import security_options, split_addresses
from scorer.stream.settings import KafkaSettings
from tests.scorer.stream.certificates import Authority
from tests.scorer.stream.conftest import PASSWORD, USER
from tests.scorer.stream.kafka_peers import Member, Site, turn_until, wait_until


def secure(server: KafkaServer, authority: Authority, **changes: object) -> dict[str, object]:
    """Return settings for the SASL_SSL listener."""
    settings = {
        "bootstrap": server.address("SECURE"),
        "security": "sasl_tls",
        "username": USER,
        "password": SecretStr(PASSWORD),
        "ca_file": authority.folder / "ca.pem",
    }
    return settings | changes


def mutual(server: KafkaServer, authority: Authority, **changes: object) -> dict[str, object]:
    """Return settings for the listener that wants a certificate of its clients."""
    settings = {
        "bootstrap": server.address("MUTUAL"),
        "security": "tls",
        "ca_file": authority.folder / "ca.pem",
        "certificate_file": authority.issue("worker"),
    }
    return settings | changes


def plain(server: KafkaServer, authority: Authority) -> dict[str, object]:
    """Return settings for the SASL_SSL listener with the password itself, under TLS."""
    return secure(server, authority, sasl_mechanism="PLAIN")


@pytest.mark.parametrize("kind", [secure, plain, mutual])
def test_records_travel_encrypted(site: Site, kafka_server: KafkaServer, authority: Authority, kind: object) -> None:
    """SCRAM-SHA-512 and PLAIN over TLS, and a certificate of our own: write, read, commit, all in transactions."""
    site.create_topics()
    source, sink = site.connect(**kind(kafka_server, authority), delivery="exactly_once")
    sink.deliver(site.requests(5))
    member = Member(source, sink)
    turn_until([member], lambda: len(member.polled) == 5, "all records")
    sink.deliver_once(site.requests(1), member.offsets(member.owned))
    source.commit(member.offsets(member.owned))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"password": SecretStr("another one")}, "(?i)authentication"),
        ({"username": "nobody"}, "(?i)authentication"),
        ({"sasl_mechanism": "PLAIN", "password": SecretStr("another one")}, "(?i)authentication"),
        ({"sasl_mechanism": "SCRAM-SHA-256"}, "(?i)mechanism"),
    ],
)
def test_a_wrong_password_is_refused_at_once(
    site: Site, kafka_server: KafkaServer, authority: Authority, changes: dict[str, object], message: str
) -> None:
    """It says so instead of trying for ever, names no secret and leaves no thread behind."""
    before = threading.active_count()
    with pytest.raises(BrokerRefused, match=message) as refusal:
        site.connect(**secure(kafka_server, authority, **changes))
    assert "another one" not in str(refusal.value)
    wait_until(lambda: threading.active_count() <= before, "the client's threads to end")


def test_a_certificate_of_somebody_else_is_not_trusted(
    kafka_server: KafkaServer, authority: Authority, tmp_path: Path
) -> None:
    """Not the broker's by us, and not ours by the broker."""
    stranger = Authority(tmp_path)
    for settings, message in (
        (secure(kafka_server, authority, ca_file=tmp_path / "ca.pem"), "not trusted"),
        (secure(kafka_server, authority, ca_file=None), "not trusted"),
        (mutual(kafka_server, authority, certificate_file=stranger.issue("worker")), "TLS"),
        (mutual(kafka_server, authority, certificate_file=None), "TLS"),
        (secure(kafka_server, authority, bootstrap=kafka_server.bootstrap), "no TLS"),
    ):
        with pytest.raises(BrokerRefused, match=message):
            Brokers(KafkaSettings(**settings), insecure_dev=False)


def test_the_host_name_is_checked(kafka_server: KafkaServer, authority: Authority) -> None:
    """The certificate says 127.0.0.1; the same broker under another name is not trusted."""
    address = f"localhost:{kafka_server.ports['SECURE']}"
    with pytest.raises(BrokerRefused, match="not trusted"):
        Brokers(KafkaSettings(**secure(kafka_server, authority, bootstrap=address)), insecure_dev=False)


def test_plaintext_to_a_tls_port_is_an_outage(
    site: Site, kafka_server: KafkaServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A broker that hangs up on us may come back otherwise; the attempt ends."""
    monkeypatch.setattr("scorer.stream.kafka_client.CONNECT_S", 1)
    with pytest.raises(BrokerUnavailable):
        site.connect(bootstrap=kafka_server.address("SECURE"))


def test_images_do_not_leave_this_machine_in_the_clear() -> None:
    """Plaintext beyond the loopback is refused, with a password too, unless somebody accepts it."""
    far = KafkaSettings(bootstrap="127.0.0.1:9092,kafka.example.org:9092")
    with pytest.raises(SettingsError, match=r"kafka\.example\.org"):
        security_options(far, insecure_dev=False)
    for mechanism in ("SCRAM-SHA-512", "PLAIN"):
        signed = {
            "security": "sasl_plaintext",
            "username": "a",
            "password": SecretStr("b"),
            "sasl_mechanism": mechanism,
        }
        with pytest.raises(SettingsError, match="not be encrypted"):
            security_options(far.model_copy(update=signed), insecure_dev=False)
    assert security_options(far, insecure_dev=True) == {"security_protocol": "PLAINTEXT"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"security": "sasl_tls"}, "username"),
        ({"security": "sasl_tls", "username": "a"}, "password"),
        ({"username": "a", "password": "b"}, "uses no username"),
        ({"ca_file": "ca.pem"}, "uses no certificate"),
        ({"security": "tls", "key_file": "key.pem"}, "without kafka.certificate_file"),
        ({"security": "tls", "ca_file": "nowhere.pem"}, r"nowhere\.pem"),
        ({"bootstrap": ""}, "names no broker"),
        ({"bootstrap": "127.0.0.1:many"}, "many"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings: dict[str, str], message: str) -> None:
    """Each sentence names the setting."""
    with pytest.raises(SettingsError, match=message):
        security_options(KafkaSettings(**settings), insecure_dev=False)


def test_a_key_with_a_passphrase_is_refused_without_asking(tmp_path: Path) -> None:
    """OpenSSL would ask on the terminal; a service has none."""
    passphrase = serialization.BestAvailableEncryption(b"secret")
    key = ec.generate_private_key(ec.SECP256R1())
    file = tmp_path / "locked.pem"
    file.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, passphrase))
    certificate = Authority(tmp_path).issue("worker")
    with pytest.raises(SettingsError, match=r"locked\.pem"):
        security_options(KafkaSettings(security="tls", certificate_file=certificate, key_file=file), insecure_dev=False)


def test_addresses_are_split() -> None:
    """Several, with spaces, IPv6 in brackets, the port left out."""
    assert split_addresses(" a:1, [::1]:2,b ,[::1]") == [("a", 1), ("::1", 2), ("b", 9092), ("::1", 9092)]
