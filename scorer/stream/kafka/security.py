"""Credentials and trust of a Kafka client: SASL, TLS, mutual TLS; no plaintext except on the loopback."""

import re
import socket
import ssl
from pathlib import Path
from typing import Any

from kafka.errors import SaslAuthenticationFailedError
from kafka.net.sasl.oauth import AbstractTokenProvider

from scorer.errors import BrokerRefused, SettingsError
from scorer.extras import pip_line
from scorer.settings import KafkaSettings
from scorer.transport import require_private_transport

PROTOCOLS = {
    "plaintext": "PLAINTEXT",
    "tls": "SSL",
    "sasl_plaintext": "SASL_PLAINTEXT",
    "sasl_tls": "SASL_SSL",
}
# The settings that a mechanism needs, where they are not username and password.
CREDENTIALS = {"OAUTHBEARER": {"token_file"}, "AWS_MSK_IAM": set[str]()}
TOKEN = re.compile(rb"[A-Za-z0-9._~+/-]+=*")  # RFC 6750: another byte could end the field that carries it
KAFKA_PORT = 9092
HANDSHAKE_S = 5
# ApiVersions v0 without a client id: the only request that a broker answers before authentication.
API_VERSIONS_REQUEST = bytes.fromhex("0000000a 0012 0000 00000001 ffff")


def is_encrypted(kafka: KafkaSettings) -> bool:
    """Return whether the connection uses TLS."""
    return kafka.security in {"tls", "sasl_tls"}


def split_addresses(bootstrap: str) -> list[tuple[str, int]]:
    """Return hosts and ports of a comma-separated list; an IPv6 address is in brackets.

    Raises:
        SettingsError: an entry is not `host:port`.
    """
    addresses = []
    for entry in filter(None, (part.strip() for part in bootstrap.split(","))):
        host, colon, port = entry.rpartition(":")
        if not colon or (entry.startswith("[") and entry.endswith("]")):
            host, port = entry, str(KAFKA_PORT)
        if not port.isdecimal() or not host:
            message = f"kafka.bootstrap has the entry {entry!r}; it takes host:port, several with commas between them"
            raise SettingsError(message)
        addresses.append((host.strip("[]"), int(port)))
    if not addresses:
        message = "kafka.bootstrap names no broker; set it to host:port"
        raise SettingsError(message)
    return addresses


def security_options(kafka: KafkaSettings, *, insecure_dev: bool) -> dict[str, Any]:
    """Return the client's options for credentials and trust, checked with the brokers that answer.

    Raises:
        SettingsError: settings contradict each other, a file cannot be used, or the connection would not be encrypted.
        BrokerRefused: a broker's certificate is not trusted, or the broker does not trust ours.
    """
    addresses = split_addresses(kafka.bootstrap)
    for host, _ in addresses:
        require_private_transport(host, encrypted=is_encrypted(kafka), insecure_dev=insecure_dev)
    options: dict[str, Any] = {"security_protocol": PROTOCOLS[kafka.security]} | _sasl_options(kafka)
    if is_encrypted(kafka):
        options["ssl_context"] = context = _tls_context(kafka)
        for host, port in addresses:
            _check_trust(host, port, context)
    elif kafka.ca_file or kafka.certificate_file or kafka.key_file:
        message = f"kafka.security is {kafka.security}, which uses no certificate files; set it to tls or sasl_tls"
        raise SettingsError(message)
    return options


def _sasl_options(kafka: KafkaSettings) -> dict[str, Any]:
    given = {name for name in ("username", "password", "token_file") if getattr(kafka, name)}
    if kafka.security not in {"sasl_plaintext", "sasl_tls"}:
        if given:
            message = f"kafka.security is {kafka.security}, which uses no {_list_settings(given)}; set it to sasl_tls"
            raise SettingsError(message)
        return {}
    needed = CREDENTIALS.get(kafka.sasl_mechanism, {"username", "password"})
    if given != needed:
        unused, missing = given - needed, needed - given
        problem = f"uses no {_list_settings(unused)}" if unused else f"needs {_list_settings(missing)}"
        message = (
            f"kafka.security is {kafka.security} with kafka.sasl_mechanism {kafka.sasl_mechanism}, which {problem}"
        )
        raise SettingsError(message)
    options: dict[str, Any] = {"sasl_mechanism": kafka.sasl_mechanism}
    if kafka.password:
        options |= {"sasl_plain_username": kafka.username, "sasl_plain_password": kafka.password.get_secret_value()}
    elif kafka.token_file:
        read_token(kafka.token_file)
        options["sasl_oauth_token_provider"] = _TokenFile(kafka.token_file)
    else:
        _require_aws_identity(kafka)
    return options


def _list_settings(names: set[str]) -> str:
    return " and ".join(f"kafka.{name}" for name in sorted(names, reverse=True))


def read_token(file: Path) -> str:
    """Return the bearer token in a file, without surrounding white space.

    Raises:
        SettingsError: the file cannot be read, or contains no token.
    """
    try:
        token = file.read_bytes().strip()
    except OSError as error:
        message = f"kafka.token_file cannot be read: {error}"
        raise SettingsError(message) from error
    if not TOKEN.fullmatch(token):
        message = f"kafka.token_file {file} contains no bearer token, which is letters, digits and -._~+/= on one line"
        raise SettingsError(message)
    return token.decode()


class _TokenFile(AbstractTokenProvider):  # type: ignore[misc]  # the client ships no types
    """Reads the token for each connection, since its issuer replaces the file before the token expires."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self._file = file

    def token(self) -> str:
        """Return the token; a missing one is refused like a wrong one, instead of retried forever."""
        try:
            return read_token(self._file)
        except SettingsError as error:
            raise SaslAuthenticationFailedError(str(error)) from error


def _require_aws_identity(kafka: KafkaSettings) -> None:
    """Check the AWS identity; the client would check it only when it connects, and treat the error as an outage."""
    if kafka.security != "sasl_tls":
        message = f"kafka.security is {kafka.security}, but kafka.sasl_mechanism AWS_MSK_IAM needs sasl_tls"
        raise SettingsError(message)
    try:
        from botocore.exceptions import BotoCoreError  # noqa: PLC0415 - only this mechanism needs it
        from botocore.session import Session  # noqa: PLC0415
    except ModuleNotFoundError as error:
        line = pip_line(["cpu", "stream", "s3"])
        message = f"kafka.sasl_mechanism AWS_MSK_IAM needs the package botocore, which is not installed: {line}"
        raise SettingsError(message) from error
    session = Session()
    try:
        region, credentials = session.get_config_variable("region"), session.get_credentials()
    except BotoCoreError as error:
        message = f"kafka.sasl_mechanism AWS_MSK_IAM has no identity: {error}"
        raise SettingsError(message) from error
    if not region or credentials is None:
        what = "AWS credentials" if region else "AWS region: set AWS_DEFAULT_REGION"
        message = f"kafka.sasl_mechanism AWS_MSK_IAM found no {what}"
        raise SettingsError(message)


def _tls_context(kafka: KafkaSettings) -> ssl.SSLContext:
    """Return a context that checks chain and host name, with the client certificate if there is one."""
    try:
        context = ssl.create_default_context(cafile=kafka.ca_file)
        if kafka.certificate_file:
            # With the empty passphrase OpenSSL does not ask for one on the terminal.
            context.load_cert_chain(kafka.certificate_file, kafka.key_file, password=lambda: "")
        elif kafka.key_file:
            message = "kafka.key_file is set without kafka.certificate_file"
            raise SettingsError(message)
    except (OSError, ssl.SSLError) as error:
        files = [str(file) for file in (kafka.ca_file, kafka.certificate_file, kafka.key_file) if file]
        message = f"the certificate files for Kafka cannot be used ({', '.join(files)}): {error}"
        raise SettingsError(message) from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _check_trust(host: str, port: int, context: ssl.SSLContext) -> None:
    """Do one TLS handshake: the client treats an untrusted certificate as an outage, and retries forever."""
    connected = False
    try:
        with (
            socket.create_connection((host, port), HANDSHAKE_S) as plain,
            context.wrap_socket(plain, server_hostname=host) as secure,
        ):
            connected = True  # with TLS 1.3 a broker accepts or refuses our certificate only after this
            secure.sendall(API_VERSIONS_REQUEST)
            if not secure.recv(1):
                message = f"the broker {host}:{port} closed the connection after TLS; set kafka.certificate_file"
                raise BrokerRefused(message)
    except ssl.SSLCertVerificationError as error:
        message = f"the certificate of the broker {host}:{port} is not trusted: {error.verify_message}"
        raise BrokerRefused(message) from error
    except ssl.SSLError as error:
        message = f"no TLS with the broker {host}:{port}: {error.reason or error}"
        raise BrokerRefused(message) from error
    except ConnectionResetError as error:
        if connected:
            message = f"the broker {host}:{port} closed the connection after TLS; set kafka.certificate_file"
            raise BrokerRefused(message) from error
    except OSError:
        return  # the broker is unavailable now; the client retries
