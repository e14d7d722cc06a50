"""Fetches one image over `https://` from hosts that are listed, and from no other machine.

The name is resolved once, every answer is judged, and the connection goes to a judged address, so that a name which
changes its mind (DNS rebinding) reaches nothing. TLS still checks the certificate against the name. Redirects go
through the same door. Nothing is decompressed, no proxy of the environment is used, no cookie is kept, and one
connection serves one request.
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
_PASSING = frozenset({408, 425, 429})  # these and all from 500 on are about the moment, not about the image
_SERVER_ERROR = 500
_OK = 200
_PORT = 443


class TemporaryFailure(Exception):
    """The same read may succeed later; the sentence says what went wrong, without the URI's secrets."""


def seconds_left(deadline: float) -> float:
    """Return how long it is until `deadline` on the monotonic clock.

    Raises:
        TimeoutError: it has passed.
    """
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


class _DeadlineSocket(ssl.SSLSocket):
    """Gives up at a moment in time: a limit per read would let a server drip bytes for ever."""

    deadline: float

    def recv_into(self, buffer: bytearray, nbytes: int | None = None, flags: int = 0) -> int:  # type: ignore[override]
        """Read what has come, waiting until the deadline at most."""
        self.settimeout(seconds_left(self.deadline))
        return super().recv_into(buffer, nbytes, flags)


@functools.cache
def make_tls_context(ca_file: Path | None = None) -> ssl.SSLContext:
    """Return what believes the authorities in `ca_file`, or the system's (`SSL_CERT_FILE` names others)."""
    context = ssl.create_default_context(cafile=ca_file)
    context.sslsocket_class = _DeadlineSocket
    return context


@dataclass(frozen=True, slots=True)
class Network:
    """The way out: who resolves names, which addresses may be reached, and which certificates are believed."""

    resolve: Resolve = resolve_host
    admits: Callable[[Address], bool] = is_public
    trust: Callable[[], ssl.SSLContext] = make_tls_context


PUBLIC_NETWORK = Network()


def describe_uri(uri: str) -> str:
    """Return a URI for a message: without query, fragment, user and password, any of which may be a secret."""
    return str(redact(uri)) if "://" in uri else "a URI that is none"


def fetch_https(
    uri: str, hosts: Collection[str], max_bytes: int, deadline: float, network: Network = PUBLIC_NETWORK
) -> bytes:
    """Return what `uri` holds.

    Args:
        uri: an `https://` URL.
        hosts: exact host names, each `host` (port 443) or `host:port`.
        max_bytes: a longer body is refused, and reading stops there.
        deadline: when to give up, on the monotonic clock.
        network: the way out.

    Raises:
        Unscorable: forbidden_uri, too_many_bytes or unreadable: trying again would not help.
        PayloadUnavailable: the host cannot prove who it is.
        TemporaryFailure: the host does not answer, is overloaded, or broke off.
    """
    for _ in range(MAX_REDIRECTS + 1):
        parts = _admitted_parts(uri, hosts)
        try:
            answer = _fetch_once(parts, max_bytes, deadline, network)
        except ssl.SSLCertVerificationError as error:
            message = f"{describe_uri(uri)}: the certificate is not to be believed ({error.verify_message})"
            raise PayloadUnavailable(message) from None
        except TimeoutError:
            message = f"{describe_uri(uri)} did not answer in time"
            raise TemporaryFailure(message) from None
        except (OSError, http.client.HTTPException) as error:
            # Their texts may repeat the URL; the kind says enough.
            message = f"{describe_uri(uri)}: the connection failed ({type(error).__name__})"
            raise TemporaryFailure(message) from None
        if isinstance(answer, bytes):
            return answer
        try:
            uri = urljoin(uri, answer.location)
        except ValueError:
            raise Unscorable(Reason.UNREADABLE, f"{describe_uri(uri)} redirects to what is no URL") from None
    raise Unscorable(Reason.UNREADABLE, f"more than {MAX_REDIRECTS} redirects, the last to {describe_uri(uri)}")


@dataclass(frozen=True, slots=True)
class _Redirect:
    location: str


def _admitted_parts(uri: str, hosts: Collection[str]) -> SplitResult:
    """Take a URL apart, if it is one that may be fetched."""
    try:
        parts = urlsplit(uri)
        port = parts.port or _PORT
    except ValueError:
        raise Unscorable(Reason.UNREADABLE, "the image's URI is no URL") from None
    if parts.scheme != "https":
        raise Unscorable(Reason.FORBIDDEN_URI, f"{describe_uri(uri)} is not https://")
    if "@" in parts.netloc:
        raise Unscorable(Reason.FORBIDDEN_URI, f"{describe_uri(uri)} carries a user or a password")
    listed = [urlsplit(f"//{host}") for host in hosts]
    if (parts.hostname, port) not in {(host.hostname, host.port or _PORT) for host in listed}:
        raise Unscorable(Reason.FORBIDDEN_URI, f"{parts.hostname}:{port} is not in payloads.https_hosts")
    return parts


def _fetch_once(parts: SplitResult, max_bytes: int, deadline: float, network: Network) -> bytes | _Redirect:
    host, port = parts.hostname or "", parts.port or _PORT
    with _connect(host, port, deadline, network) as tls:
        connection = http.client.HTTPSConnection(host, port, context=network.trust())
        connection.sock = tls
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        try:
            connection.request("GET", target, headers={"Accept-Encoding": "identity", "Connection": "close"})
        except (UnicodeEncodeError, http.client.InvalidURL):
            raise Unscorable(Reason.UNREADABLE, "the image's URI has characters that no URL has") from None
        with connection.getresponse() as response:
            return _judge_response(response, describe_uri(parts.geturl()), max_bytes)


def _judge_response(response: http.client.HTTPResponse, name: str, max_bytes: int) -> bytes | _Redirect:
    status, location = response.status, response.getheader("Location")
    if status in _REDIRECTS and location:
        return _Redirect(location)
    if status in _PASSING or status >= _SERVER_ERROR:
        message = f"{name} answered {status}"
        raise TemporaryFailure(message)
    if status != _OK:
        raise Unscorable(Reason.UNREADABLE, f"{name} answered {status}")
    if response.getheader("Content-Encoding", "identity").lower() != "identity":
        raise Unscorable(Reason.UNREADABLE, f"{name} answered with a compressed body, which was not asked for")
    length = response.length
    if length is not None and length > max_bytes:
        raise Unscorable(Reason.TOO_MANY_BYTES, f"{length} bytes, the limit is {max_bytes}")
    data = response.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise Unscorable(Reason.TOO_MANY_BYTES, f"more than the limit of {max_bytes} bytes")
    if length is not None and len(data) < length:
        message = f"{name} broke off after {len(data)} of {length} bytes"
        raise TemporaryFailure(message)
    return data


def _connect(host: str, port: int, deadline: float, network: Network) -> ssl.SSLSocket:
    """Connect to the first of the host's addresses that answers, when all of them may be reached."""
    endpoints = network.resolve(host, port, seconds_left(deadline))
    for endpoint in endpoints:
        if not network.admits(endpoint.ip):
            raise Unscorable(Reason.FORBIDDEN_URI, f"{host} resolves to {endpoint.ip}, which is no public address")
    failure: OSError = ConnectionError(f"{host} has no address")
    for number, endpoint in enumerate(endpoints):
        try:
            # Each address that is left gets its share of the time.
            raw = _dial(endpoint, seconds_left(deadline) / (len(endpoints) - number))
        except OSError as error:
            failure = error
            continue
        return _start_tls(raw, host, deadline, network.trust())
    raise failure


def _dial(endpoint: Endpoint, timeout_s: float) -> socket.socket:
    raw = socket.socket(endpoint.family, socket.SOCK_STREAM)
    try:
        raw.settimeout(timeout_s)
        raw.connect(endpoint.address)
    except OSError:
        raw.close()
        raise
    return raw


def _start_tls(raw: socket.socket, host: str, deadline: float, context: ssl.SSLContext) -> ssl.SSLSocket:
    with raw:  # `wrap_socket` takes the descriptor over; what is left to close is a failure's
        raw.settimeout(seconds_left(deadline))
        # A body that ends without the peer's goodbye may be cut short: that is an error, not its end.
        tls = context.wrap_socket(raw, server_hostname=host, suppress_ragged_eofs=False)
    cast("_DeadlineSocket", tls).deadline = deadline
    return tls
