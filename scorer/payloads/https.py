"""Fetch one image over `https://` from a listed host, and from no other machine.

The name is resolved once, every address is checked, and the connection uses a checked address, so that a changing DNS
answer (DNS rebinding) has no effect. TLS checks the certificate against the name. Redirects pass the same checks.
Bodies are not decompressed, proxies of the environment are ignored, cookies are not kept, and each connection serves
one request.
"""

import functools
import http.client
import socket
import ssl
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import cast
from urllib.parse import SplitResult, urljoin, urlsplit

from ingest.reasons import Reason, Unscorable
from scorer.errors import PayloadUnavailable
from scorer.observe.redact import redact
from scorer.payloads.addresses import Address, Endpoint, Resolve, is_public, resolve_host

MAX_REDIRECTS = 3
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_RETRYABLE = frozenset({408, 425, 429})  # with all from 500 on: temporary failures
_SERVER_ERROR = 500
_OK = 200
_PORT = 443


class TemporaryFailure(Exception):
    """The same read may succeed later; the message states what went wrong, without secrets of the URI."""


def seconds_left(deadline: float) -> float:
    """Return the seconds until `deadline` on the monotonic clock.

    Raises:
        TimeoutError: the deadline has passed.
    """
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


class _DeadlineSocket(ssl.SSLSocket):
    """A socket with a deadline: with a limit per read a server could send single bytes for ever."""

    deadline: float

    def recv_into(self, buffer: bytearray, nbytes: int | None = None, flags: int = 0) -> int:  # type: ignore[override]
        """Receive bytes; wait until the deadline at most."""
        self.settimeout(seconds_left(self.deadline))
        return super().recv_into(buffer, nbytes, flags)


@functools.cache
def make_tls_context(ca_file: Path | None = None) -> ssl.SSLContext:
    """Return a context that trusts the authorities in `ca_file`, or those of the system (or of `SSL_CERT_FILE`)."""
    context = ssl.create_default_context(cafile=ca_file)
    context.sslsocket_class = _DeadlineSocket
    return context


@dataclass(frozen=True, slots=True)
class Network:
    """The network access: the resolver, the allowed addresses, and the trusted certificates."""

    resolve: Resolve = resolve_host
    allows: Callable[[Address], bool] = is_public
    make_context: Callable[[], ssl.SSLContext] = make_tls_context


PUBLIC_NETWORK = Network()


def describe_uri(uri: str) -> str:
    """Return a URI for a message, without query, fragment, user and password, which may be secrets."""
    return str(redact(uri)) if "://" in uri else "an invalid URI"


def fetch_https(
    uri: str, hosts: Collection[str], max_bytes: int, deadline: float, network: Network = PUBLIC_NETWORK
) -> bytes:
    """Return the bytes at `uri`.

    Args:
        uri: an `https://` URL.
        hosts: exact host names, each `host` (port 443) or `host:port`.
        max_bytes: a longer body is refused; reading stops at this size.
        deadline: on the monotonic clock.
        network: see `Network`.

    Raises:
        Unscorable: forbidden_uri, too_many_bytes or unreadable: a retry would not help.
        PayloadUnavailable: the certificate of the host is not valid.
        TemporaryFailure: the host does not answer, is overloaded, or closed the connection.
    """
    for _ in range(MAX_REDIRECTS + 1):
        parts = _parse_allowed_url(uri, hosts)
        try:
            answer = _fetch_once(parts, max_bytes, deadline, network)
        except ssl.SSLCertVerificationError as error:
            message = f"{describe_uri(uri)}: the certificate is not valid ({error.verify_message})"
            raise PayloadUnavailable(message) from None
        except TimeoutError:
            message = f"{describe_uri(uri)} did not answer in time"
            raise TemporaryFailure(message) from None
        except (OSError, http.client.HTTPException) as error:
            # The text of the error may contain the URL, so only its type is shown.
            message = f"{describe_uri(uri)}: the connection failed ({type(error).__name__})"
            raise TemporaryFailure(message) from None
        if isinstance(answer, bytes):
            return answer
        try:
            uri = urljoin(uri, answer.location)
        except ValueError:
            raise Unscorable(Reason.UNREADABLE, f"{describe_uri(uri)} redirects to an invalid URL") from None
    raise Unscorable(Reason.UNREADABLE, f"more than {MAX_REDIRECTS} redirects, the last to {describe_uri(uri)}")


@dataclass(frozen=True, slots=True)
class _Redirect:
    location: str


def _parse_allowed_url(uri: str, hosts: Collection[str]) -> SplitResult:
    """Return the parts of a URL that may be fetched; refuse any other."""
    try:
        parts = urlsplit(uri)
        port = parts.port or _PORT
    except ValueError:
        raise Unscorable(Reason.UNREADABLE, "the URI of the image is not a URL") from None
    if parts.scheme != "https":
        raise Unscorable(Reason.FORBIDDEN_URI, f"{describe_uri(uri)} is not https://")
    if "@" in parts.netloc:
        raise Unscorable(Reason.FORBIDDEN_URI, f"{describe_uri(uri)} contains a user or a password")
    listed = [urlsplit(f"//{host}") for host in hosts]
    if (parts.hostname, port) not in {(host.hostname, host.port or _PORT) for host in listed}:
        raise Unscorable(Reason.FORBIDDEN_URI, f"{parts.hostname}:{port} is not in payloads.https_hosts")
    return parts


def _fetch_once(parts: SplitResult, max_bytes: int, deadline: float, network: Network) -> bytes | _Redirect:
    host, port = parts.hostname or "", parts.port or _PORT
    with _connect(host, port, deadline, network) as tls:
        connection = http.client.HTTPSConnection(host, port, context=network.make_context())
        connection.sock = tls
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        try:
            connection.request("GET", target, headers={"Accept-Encoding": "identity", "Connection": "close"})
        except (UnicodeEncodeError, http.client.InvalidURL):
            raise Unscorable(
                Reason.UNREADABLE, "the URI of the image has characters that a URL must not have"
            ) from None
        with connection.getresponse() as response:
            return _read_response(response, describe_uri(parts.geturl()), max_bytes)


def _read_response(response: http.client.HTTPResponse, name: str, max_bytes: int) -> bytes | _Redirect:
    status, location = response.status, response.getheader("Location")
    if status in _REDIRECTS and location:
        return _Redirect(location)
    if status in _RETRYABLE or status >= _SERVER_ERROR:
        message = f"{name} answered {status}"
        raise TemporaryFailure(message)
    if status != _OK:
        raise Unscorable(Reason.UNREADABLE, f"{name} answered {status}")
    if response.getheader("Content-Encoding", "identity").lower() != "identity":
        raise Unscorable(Reason.UNREADABLE, f"{name} answered with a compressed body, which was not requested")
    length = response.length
    if length is not None and length > max_bytes:
        raise Unscorable(Reason.TOO_MANY_BYTES, f"{length} bytes, the limit is {max_bytes}")
    data = response.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise Unscorable(Reason.TOO_MANY_BYTES, f"more than the limit of {max_bytes} bytes")
    if length is not None and len(data) < length:
        message = f"{name} closed the connection after {len(data)} of {length} bytes"
        raise TemporaryFailure(message)
    return data


def _connect(host: str, port: int, deadline: float, network: Network) -> ssl.SSLSocket:
    """Connect to the first address of the host that answers, provided that all of them are allowed."""
    endpoints = network.resolve(host, port, seconds_left(deadline))
    for endpoint in endpoints:
        if not network.allows(endpoint.ip):
            raise Unscorable(Reason.FORBIDDEN_URI, f"{host} resolves to {endpoint.ip}, which is not a public address")
    failure: OSError = ConnectionError(f"{host} has no address")
    for number, endpoint in enumerate(endpoints):
        try:
            # Each remaining address gets an equal share of the time.
            raw = _connect_tcp(endpoint, seconds_left(deadline) / (len(endpoints) - number))
        except OSError as error:
            failure = error
            continue
        return _start_tls(raw, host, deadline, network.make_context())
    raise failure


def _connect_tcp(endpoint: Endpoint, timeout_s: float) -> socket.socket:
    raw = socket.socket(endpoint.family, socket.SOCK_STREAM)
    try:
        raw.settimeout(timeout_s)
        raw.connect(endpoint.address)
    except OSError:
        raw.close()
        raise
    return raw


def _start_tls(raw: socket.socket, host: str, deadline: float, context: ssl.SSLContext) -> ssl.SSLSocket:
    with raw:  # `wrap_socket` takes over the descriptor; `with` closes it only after a failure
        raw.settimeout(seconds_left(deadline))
        # A body that ends without a TLS close notification may be truncated: that is an error.
        tls = context.wrap_socket(raw, server_hostname=host, suppress_ragged_eofs=False)
    cast("_DeadlineSocket", tls).deadline = deadline
    return tls
