"""Credentials and trust, on the real broker's SASL_SSL and mutual TLS listeners."""

import base64
import json
import os
import re
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from botocore.auth import SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from kafka.net.sasl import get_sasl_mechanism
from kafka.net.transport import KafkaSSLTransport
from pydantic import SecretStr

from deploy.local.kafka import KafkaServer
from scorer.errors import BrokerRefused, BrokerUnavailable, SettingsError
from scorer.settings import KafkaSettings
from scorer.stream.kafka.client import KafkaClientFactory
from scorer.stream.kafka.security import security_options, split_addresses
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
    """Return settings for the listener that requires a client certificate."""
    settings = {
        "bootstrap": server.address("MUTUAL"),
        "security": "tls",
        "ca_file": authority.folder / "ca.pem",
        "certificate_file": authority.issue("worker"),
    }
    return settings | changes


def plain(server: KafkaServer, authority: Authority) -> dict[str, object]:
    """Return settings for the SASL_SSL listener with the mechanism PLAIN."""
    return secure(server, authority, sasl_mechanism="PLAIN")


def aws(server: KafkaServer, authority: Authority, **changes: object) -> dict[str, object]:
    """Return settings with AWS_MSK_IAM, which the broker does not support."""
    settings = {"sasl_mechanism": "AWS_MSK_IAM", "username": None, "password": None}
    return secure(server, authority, **settings | changes)


def write_token(file: Path, life_s: float) -> Path:
    """Write an unsigned token that the broker of the tests accepts for `life_s`."""
    now = time.time()
    parts = {"alg": "none"}, {"sub": USER, "iat": now, "exp": now + life_s}
    token = "".join(base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") + "." for part in parts)
    new = file.with_suffix(".new")
    new.write_text(f"{token}\n")
    return new.replace(file)


def bearer(server: KafkaServer, authority: Authority, **changes: object) -> dict[str, object]:
    """Return settings for the SASL_SSL listener with a token."""
    settings: dict[str, object] = {"sasl_mechanism": "OAUTHBEARER", "username": None, "password": None}
    if "token_file" not in changes:
        settings["token_file"] = write_token(authority.folder / "token", 600)
    return secure(server, authority, **settings | changes)


@pytest.mark.parametrize("kind", [secure, plain, bearer, mutual])
def test_records_travel_encrypted(site: Site, kafka_server: KafkaServer, authority: Authority, kind: object) -> None:
    """SCRAM-SHA-512, PLAIN and a token over TLS, and a client certificate: write, read, commit, in transactions."""
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
    """It raises instead of retrying forever, names no secret and leaves no thread."""
    before = threading.active_count()
    with pytest.raises(BrokerRefused, match=message) as refusal:
        site.connect(**secure(kafka_server, authority, **changes))
    assert "another one" not in str(refusal.value)
    wait_until(lambda: threading.active_count() <= before, "the client's threads to end")


def test_a_refusal_read_together_with_the_disconnection_is_kept(
    site: Site, kafka_server: KafkaServer, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that reads late finds the refusal and the end of the connection in one read, and reports the refusal."""
    receive = KafkaSSLTransport._sock_recv  # noqa: SLF001

    def receive_late(transport: KafkaSSLTransport) -> object:
        time.sleep(0.5)  # longer than the broker waits between a refusal and the disconnection
        return receive(transport)

    monkeypatch.setattr(KafkaSSLTransport, "_sock_recv", receive_late)
    with pytest.raises(BrokerRefused, match=r"(?i)authentication"):
        site.connect(**secure(kafka_server, authority, username="nobody"))


@pytest.mark.slow
def test_a_token_is_reread(site: Site, kafka_server: KafkaServer, authority: Authority, tmp_path: Path) -> None:
    """A worker outlives its tokens while the file is replaced, on connections that stay open."""
    file = write_token(tmp_path / "token", 4)
    site.create_topics()
    source, sink = site.connect(**bearer(kafka_server, authority, token_file=file))
    member, sent = Member(source, sink), 0
    until = time.monotonic() + 10
    while time.monotonic() < until:
        write_token(file, 4)
        sink.deliver(site.requests(1))
        sent += 1
        turn_until([member], lambda wanted=sent: len(member.polled) == wanted, "the record")
        source.commit(member.offsets(member.owned))


@pytest.mark.parametrize("spoil", [lambda file: write_token(file, -60), Path.unlink])
def test_a_token_that_is_not_replaced_is_refused(
    site: Site, kafka_server: KafkaServer, authority: Authority, tmp_path: Path, spoil: Callable[[Path], object]
) -> None:
    """An expired or missing token ends the worker with an error when it is needed again."""
    file = write_token(tmp_path / "token", 3)
    site.create_topics()
    source, sink = site.connect(**bearer(kafka_server, authority, token_file=file))
    member = Member(source, sink)
    spoil(file)
    with pytest.raises(BrokerRefused, match=r"(?i)authentication|token_file") as refusal:
        turn_until([member], lambda: False, "a refusal")
    assert "eyJ" not in str(refusal.value)


def test_the_aws_signature_is_that_of_botocore(
    monkeypatch: pytest.MonkeyPatch, site: Site, kafka_server: KafkaServer, authority: Authority
) -> None:
    """AWS_MSK_IAM sends the request that botocore signs; it is not tested on a broker of AWS."""
    for name, value in (("ACCESS_KEY_ID", "AKIDEXAMPLE"), ("SECRET_ACCESS_KEY", "of a test"), ("SESSION_TOKEN", "a/b")):
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    kafka = KafkaSettings(**aws(kafka_server, authority))
    options = security_options(kafka, insecure_dev=False)
    mechanism = get_sasl_mechanism(options["sasl_mechanism"])(host="b-1.example", **options)
    shown = json.loads(mechanism.auth_bytes())
    url = "https://b-1.example/?Action=kafka-cluster%3AConnect"
    request = AWSRequest("GET", url, data=b"")
    request.context["timestamp"] = shown["x-amz-date"]
    signer = SigV4QueryAuth(Credentials("AKIDEXAMPLE", "of a test", "a/b"), "kafka-cluster", "eu-central-1", 900)
    with monkeypatch.context() as patch:
        when = datetime.strptime(shown["x-amz-date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
        patch.setattr("botocore.auth.get_current_datetime", lambda **_: when)
        signer.add_auth(request)
    signed = {name.lower(): value for name, (value,) in parse_qs(urlsplit(request.url).query).items()}
    assert signed.items() <= shown.items()
    with pytest.raises(BrokerRefused, match=r"(?i)mechanism"):
        site.connect(**aws(kafka_server, authority))


def test_an_unknown_certificate_is_not_trusted(kafka_server: KafkaServer, authority: Authority, tmp_path: Path) -> None:
    """Neither that of the broker nor that of the client."""
    other_authority = Authority(tmp_path)
    for settings, message in (
        (secure(kafka_server, authority, ca_file=tmp_path / "ca.pem"), "not trusted"),
        (secure(kafka_server, authority, ca_file=None), "not trusted"),
        (mutual(kafka_server, authority, certificate_file=other_authority.issue("worker")), "TLS"),
        (mutual(kafka_server, authority, certificate_file=None), "TLS"),
        (secure(kafka_server, authority, bootstrap=kafka_server.bootstrap), "no TLS"),
    ):
        with pytest.raises(BrokerRefused, match=message):
            KafkaClientFactory(KafkaSettings(**settings), insecure_dev=False)


def test_the_host_name_is_checked(kafka_server: KafkaServer, authority: Authority) -> None:
    """The certificate is for 127.0.0.1; the same broker under another name is not trusted."""
    address = f"localhost:{kafka_server.ports['SECURE']}"
    with pytest.raises(BrokerRefused, match="not trusted"):
        KafkaClientFactory(KafkaSettings(**secure(kafka_server, authority, bootstrap=address)), insecure_dev=False)


def test_plaintext_to_a_tls_port_is_an_outage(
    site: Site, kafka_server: KafkaServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broker closes the connection, which may be an outage; the attempt ends."""
    monkeypatch.setattr("scorer.stream.kafka.client.CONNECT_S", 1)
    with pytest.raises(BrokerUnavailable):
        site.connect(bootstrap=kafka_server.address("SECURE"))


def test_unencrypted_connections_to_other_machines_are_refused() -> None:
    """Plaintext except on the loopback is refused, also with a password, without insecure_dev."""
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
        ({"username": "a", "password": "b"}, "uses no kafka.username"),
        ({"ca_file": "ca.pem"}, "uses no certificate"),
        ({"security": "tls", "key_file": "key.pem"}, "without kafka.certificate_file"),
        ({"security": "tls", "ca_file": "nowhere.pem"}, r"nowhere\.pem"),
        ({"security": "sasl_tls", "sasl_mechanism": "OAUTHBEARER"}, r"needs kafka\.token_file"),
        ({"security": "sasl_tls", "sasl_mechanism": "OAUTHBEARER", "username": "a"}, r"uses no kafka\.username"),
        ({"security": "sasl_tls", "username": "a", "password": "b", "token_file": "c"}, r"uses no kafka\.token_file"),
        ({"token_file": "c"}, r"uses no kafka\.token_file"),
        ({"security": "sasl_tls", "sasl_mechanism": "OAUTHBEARER", "token_file": "nowhere"}, "cannot be read.*nowhere"),
        ({"security": "sasl_tls", "sasl_mechanism": "OAUTHBEARER", "token_file": __file__}, "contains no bearer token"),
        ({"security": "sasl_plaintext", "sasl_mechanism": "AWS_MSK_IAM"}, "needs sasl_tls"),
        ({"security": "sasl_tls", "sasl_mechanism": "AWS_MSK_IAM", "token_file": "c"}, r"uses no kafka\.token_file"),
        ({"bootstrap": ""}, "names no broker"),
        ({"bootstrap": "127.0.0.1:many"}, "many"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings: dict[str, str], message: str) -> None:
    """Each message names the setting."""
    with pytest.raises(SettingsError, match=message):
        security_options(KafkaSettings(**settings), insecure_dev=False)


def test_aws_without_an_identity_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without botocore, a region or credentials it raises at once; the client would retry forever."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    kafka = KafkaSettings(security="sasl_tls", sasl_mechanism="AWS_MSK_IAM")
    with pytest.raises(SettingsError, match="AWS_DEFAULT_REGION"):
        security_options(kafka, insecure_dev=False)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    with pytest.raises(SettingsError, match="no AWS credentials"):
        security_options(kafka, insecure_dev=False)
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(SettingsError, match="nobody"):
        security_options(kafka, insecure_dev=False)
    monkeypatch.setitem(sys.modules, "botocore.session", None)
    with pytest.raises(SettingsError, match=re.escape("[cpu,stream,s3]")):
        security_options(kafka, insecure_dev=False)


def test_a_key_with_a_passphrase_is_refused_without_asking(tmp_path: Path) -> None:
    """OpenSSL would ask on the terminal, which a service does not have."""
    passphrase = serialization.BestAvailableEncryption(b"secret")
    key = ec.generate_private_key(ec.SECP256R1())
    file = tmp_path / "locked.pem"
    file.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, passphrase))
    certificate = Authority(tmp_path).issue("worker")
    with pytest.raises(SettingsError, match=r"locked\.pem"):
        security_options(KafkaSettings(security="tls", certificate_file=certificate, key_file=file), insecure_dev=False)


def test_addresses_are_split() -> None:
    """Several, with spaces, IPv6 in brackets, without a port."""
    assert split_addresses(" a:1, [::1]:2,b ,[::1]") == [("a", 1), ("::1", 2), ("b", 9092), ("::1", 9092)]
