"""How a Kafka client proves itself and whom it trusts: SASL, TLS, mTLS, and no plaintext beyond the loopback."""

import socket
import ssl
from typing import Any

from scorer.settings import SettingsError
from scorer.stream.broker import BrokerRefused
from scorer.stream.settings import KafkaSettings
from scorer.transport import require_private_transport

PROTOCOLS = {
    "plaintext": "PLAINTEXT",
    "tls": "SSL",
    "sasl_plaintext": "SASL_PLAINTEXT",
    "sasl_tls": "SASL_SSL",
}
KAFKA_PORT = 9092
HANDSHAKE_S = 5
# ApiVersions v0 without a client id: the one request that a broker answers before it knows who asks.
ARE_YOU_THERE = bytes.fromhex("0000000a 0012 0000 00000001 ffff")


def is_encrypted(kafka: KafkaSettings) -> bool:
    """Return whether what is sent travels under TLS."""
    return kafka.security in {"tls", "sasl_tls"}


def split_addresses(bootstrap: str) -> list[tuple[str, int]]:
    """Return hosts and ports of a comma-separated list; an IPv6 address stands in brackets.

    Raises:
        SettingsError: an entry is no `host:port`.
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
    """Return the client's options about identity and trust, checked against the brokers that answer.

    Raises:
        SettingsError: settings contradict each other, a file cannot be used, or bytes would travel in the clear.
        BrokerRefused: a broker's certificate is not trusted, or it does not trust ours.
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
    if kafka.security not in {"sasl_plaintext", "sasl_tls"}:
        if kafka.username or kafka.password:
            message = f"kafka.security is {kafka.security}, which uses no username and password; set it to sasl_tls"
            raise SettingsError(message)
        return {}
    if not kafka.username or not kafka.password:
        message = f"kafka.security is {kafka.security}, which needs kafka.username and kafka.password"
        raise SettingsError(message)
    return {
        "sasl_mechanism": kafka.sasl_mechanism,
        "sasl_plain_username": kafka.username,
        "sasl_plain_password": kafka.password.get_secret_value(),
    }


def _tls_context(kafka: KafkaSettings) -> ssl.SSLContext:
    """Return a context that checks chain and host name, with our own certificate when there is one."""
    try:
        context = ssl.create_default_context(cafile=kafka.ca_file)
        if kafka.certificate_file:
            # The empty passphrase keeps OpenSSL from asking for one on the terminal.
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
    """Shake hands once: the client takes a certificate that is not trusted for an outage, and tries for ever."""
    shaken = False
    try:
        with (
            socket.create_connection((host, port), HANDSHAKE_S) as plain,
            context.wrap_socket(plain, server_hostname=host) as secure,
        ):
            shaken = True  # under TLS 1.3 a broker says only after this whether it takes our certificate
            secure.sendall(ARE_YOU_THERE)
            if not secure.recv(1):
                message = f"the broker {host}:{port} hung up after the TLS handshake; does it want a certificate of us?"
                raise BrokerRefused(message)
    except ssl.SSLCertVerificationError as error:
        message = f"the certificate of the broker {host}:{port} is not trusted: {error.verify_message}"
        raise BrokerRefused(message) from error
    except ssl.SSLError as error:
        message = f"no TLS with the broker {host}:{port}: {error.reason or error}"
        raise BrokerRefused(message) from error
    except ConnectionResetError as error:
        if shaken:
            message = f"the broker {host}:{port} hung up after the TLS handshake; does it want a certificate of us?"
            raise BrokerRefused(message) from error
    except OSError:
        return  # it is not there now; the client waits for it
