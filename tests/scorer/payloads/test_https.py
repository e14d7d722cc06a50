"""`https://` claim checks against a real TLS server on the loopback."""

import contextlib
import functools
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.reasons import Reason, Unscorable
from scorer.errors import PayloadUnavailable
from scorer.messages import ImageSource, ScoreRequest
from scorer.payloads.addresses import Endpoint, is_public, resolve_host
from scorer.payloads.https import Network, TemporaryFailure, describe_uri, fetch_https, make_tls_context
from scorer.payloads.read import read_payload
from scorer.settings import PayloadSettings
from tests.scorer.stream.certificates import Authority

Handler = Callable[[ssl.SSLSocket], None]
BODY = bytes(range(256)) * 40
LIMIT = 20_000


@dataclass
class Server:
    """Answers each path by its handlers in turn, and remembers what it was asked."""

    port: int
    trusted: Path
    paths: dict[str, list[Handler]] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    names: list[str | None] = field(default_factory=list)
    connections: int = 0

    def url(self, path: str, host: str = "images.example") -> str:
        """Return the URL of `path`, with a secret in its query."""
        return f"https://{host}:{self.port}{path}?signature=hunter2"

    def network(self, *private: str) -> Network:
        """Return a network in which every name is this machine, save those in `private`."""

        def resolve(host: str, port: int, _: float) -> list[Endpoint]:
            return [Endpoint(socket.AF_INET, ("10.0.0.1" if host in private else "127.0.0.1", port))]

        return Network(resolve, lambda ip: ip.is_loopback, lambda: make_tls_context(self.trusted))

    def fetch(self, handler: Handler, network: Network | None = None, timeout_s: float = 20) -> bytes:
        """Fetch from a path that is answered by `handler`."""
        self.paths["/a.jpg"] = [handler]
        hosts = [f"images.example:{self.port}", f"second.example:{self.port}"]
        deadline = time.monotonic() + timeout_s
        return fetch_https(self.url("/a.jpg"), hosts, LIMIT, deadline, network or self.network())


def answer(status: str, body: bytes = b"", *headers: str) -> Handler:
    """Return a handler that sends `status`, the body's length, `headers` and `body`."""
    return send(status, f"Content-Length: {len(body)}", *headers, body=body)


def send(status: str, *headers: str, body: bytes = b"") -> Handler:
    """Return a handler that sends exactly this and hangs up without a goodbye."""
    head = "\r\n".join([f"HTTP/1.1 {status}", *headers, "", ""]).encode()
    return lambda peer: peer.sendall(head + body)


def redirect(location: str) -> Handler:
    """Return a handler that sends the client elsewhere."""
    return answer("302 Found", b"", f"Location: {location}")


def endless(head: bytes, piece: bytes, pause_s: float = 0) -> Handler:
    """Return a handler that sends `head`, and then pieces until the client hangs up."""

    def handle(peer: ssl.SSLSocket) -> None:
        peer.sendall(head)
        while True:
            peer.sendall(piece)
            time.sleep(pause_s)

    return handle


@contextlib.contextmanager
def serve(folder: Path, host: str = "images.example") -> Iterator[Server]:
    """Run a server with a certificate of `host` until the block ends."""
    authority = Authority(folder)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority.issue("server", hosts=[host, "second.example"]))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = Server(listener.getsockname()[1], folder / "ca.pem")
        context.sni_callback = lambda _, name, __: server.names.append(name)
        accepter = threading.Thread(target=_accept, args=(listener, context, server))
        accepter.start()
        try:
            yield server
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            accepter.join()


def _accept(listener: socket.socket, context: ssl.SSLContext, server: Server) -> None:
    threads: list[threading.Thread] = []
    with contextlib.suppress(OSError):  # the listener was closed
        while True:
            peer, _ = listener.accept()
            server.connections += 1
            threads.append(threading.Thread(target=_answer, args=(peer, context, server)))
            threads[-1].start()
    for thread in threads:
        thread.join()


def _answer(raw: socket.socket, context: ssl.SSLContext, server: Server) -> None:
    raw.settimeout(20)
    # The client hangs up where it pleases.
    with contextlib.suppress(OSError), raw, context.wrap_socket(raw, server_side=True) as peer:
        request = b""
        while b"\r\n\r\n" not in request:
            part = peer.recv(65536)
            if not part:
                return
            request += part
        server.requests.append(request.decode())
        handlers = server.paths[request.split()[1].decode().partition("?")[0]]
        (handlers.pop(0) if len(handlers) > 1 else handlers[0])(peer)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that proves to be images.example and second.example."""
    with serve(tmp_path_factory.mktemp("tls")) as server:
        yield server


@pytest.fixture(autouse=True)
def no_leaks(server: Server) -> Iterator[None]:
    """Each test closes every descriptor, also after a failure."""
    before = server.connections, psutil.Process().num_fds()
    yield
    for _ in range(1000):
        if psutil.Process().num_fds() <= before[1]:
            return
        time.sleep(0.01)  # the server closes its ends in its own time
    pytest.fail(f"{psutil.Process().num_fds() - before[1]} descriptors leaked")


CHUNKED = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (BODY[:7], BODY[7:5000], BODY[5000:])) + b"0\r\n\r\n"


def say_goodbye(peer: ssl.SSLSocket) -> None:
    """Send a body whose only end is TLS's."""
    peer.sendall(b"HTTP/1.0 200 OK\r\n\r\n" + BODY)
    peer.unwrap()


@pytest.mark.parametrize(
    "handler", [answer("200 OK", BODY), send("200 OK", "Transfer-Encoding: chunked", body=CHUNKED), say_goodbye]
)
def test_body_arrives_whole(server: Server, monkeypatch: pytest.MonkeyPatch, handler: Handler) -> None:
    """A body of any framing is returned; the server gets the name, proxies are ignored."""
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    assert server.fetch(handler) == BODY
    request = server.requests[-1]
    assert request.startswith("GET /a.jpg?signature=hunter2 HTTP/1.1\r\n")
    assert f"\r\nHost: images.example:{server.port}\r\n" in request
    assert "\r\nAccept-Encoding: identity\r\n" in request
    assert server.names[-1] == "images.example"


@pytest.mark.parametrize(
    ("handler", "reason"),
    [
        (answer("404 Not Found"), Reason.UNREADABLE),
        (answer("403 Forbidden"), Reason.UNREADABLE),
        (answer("204 No Content"), Reason.UNREADABLE),
        (answer("206 Partial Content", b"a"), Reason.UNREADABLE),
        (answer("302 Found"), Reason.UNREADABLE),
        (answer("200 OK", b"\x1f\x8b", "Content-Encoding: gzip"), Reason.UNREADABLE),
        (answer("200 OK", bytes(LIMIT + 1)), Reason.TOO_MANY_BYTES),
        (send("200 OK", "Content-Length: 99999999999"), Reason.TOO_MANY_BYTES),
        (endless(b"HTTP/1.0 200 OK\r\n\r\n", bytes(9000)), Reason.TOO_MANY_BYTES),
        (endless(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"3\r\nabc\r\n"), Reason.TOO_MANY_BYTES),
        (redirect("http://images.example/a.jpg"), Reason.FORBIDDEN_URI),
        (redirect("file:///etc/hostname"), Reason.FORBIDDEN_URI),
        (redirect("https://other.example/a.jpg"), Reason.FORBIDDEN_URI),
        (redirect("//images.example/a.jpg"), Reason.FORBIDDEN_URI),  # port 443 is not listed
        (redirect("https://u:p@images.example/a.jpg"), Reason.FORBIDDEN_URI),
        (redirect("/a.jpg?again=hunter2"), Reason.UNREADABLE),  # in a circle
        (redirect("https://[images"), Reason.UNREADABLE),
    ],
)
def test_answers_that_stay_wrong_are_refused(server: Server, handler: Handler, reason: Reason) -> None:
    """A permanent failure is a reason, and its text does not contain the query."""
    with pytest.raises(Unscorable) as error:
        server.fetch(handler)
    assert error.value.reason is reason
    assert "hunter2" not in str(error.value)
    assert "u:p" not in str(error.value)


@pytest.mark.parametrize(
    ("handler", "timeout_s"),
    [
        (answer("503 Service Unavailable"), 20),
        (answer("429 Too Many Requests"), 20),
        (send("200 OK", "Content-Length: 10", body=b"abc"), 20),
        (send("200 OK", body=b"abc"), 20),  # no length, and no goodbye: who can say that it is whole?
        (send("200 OK", "Transfer-Encoding: chunked", body=CHUNKED[:-9]), 20),
        (send("garbage"), 20),
        (lambda peer: peer.close(), 20),
        (lambda _: time.sleep(1.5), 0.3),
        (endless(b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n", b"a", 0.02), 0.5),
        (endless(b"HTTP/1.1 200 OK\r\n", b"X-Header: a\r\n", 0.02), 0.5),
        (endless(b"HTTP/1.1 200 OK\r\nX-Header: ", b"a", 0.02), 0.5),
    ],
)
def test_answers_that_may_come_right_are_tried_again(server: Server, handler: Handler, timeout_s: float) -> None:
    """Overload, broken connections and slow servers end in time, without the query."""
    with pytest.raises(TemporaryFailure) as error:
        server.fetch(handler, timeout_s=timeout_s)
    assert "hunter2" not in str(error.value)


@pytest.mark.parametrize(
    "url",
    [
        "http://images.example/a.jpg",
        "https://other.example/a.jpg",
        "https://sub.images.example/a.jpg",
        "https://images.example.evil.example/a.jpg",
        "https://images.example./a.jpg",
        "https://images.example:8443/a.jpg",
        "https://images.example@other.example/a.jpg",
        "https://other.example\\@images.example/a.jpg",
        "https://user:hunter2@images.example/a.jpg",
        "https:///a.jpg",
        "https://іmages.example/a.jpg",  # noqa: RUF001 - the Cyrillic letter is the point
    ],
)
def test_hosts_are_exact(server: Server, url: str) -> None:
    """What is not the listed host on its port is refused before any name is resolved."""

    def resolve(host: str, *_: object) -> list[Endpoint]:
        pytest.fail(f"{host} was resolved")

    network = replace(server.network(), resolve=resolve)
    with pytest.raises(Unscorable) as error:
        fetch_https(url, ["images.example"], LIMIT, time.monotonic() + 9, network)
    assert error.value.reason is Reason.FORBIDDEN_URI
    assert "hunter2" not in str(error.value)


@pytest.mark.parametrize("path", ["/a b", "/ä", "/a\x00"])
def test_paths_that_no_url_has_are_refused(server: Server, path: str) -> None:
    """Characters that could split a request are refused, not sent."""
    asked = len(server.requests)
    with pytest.raises(Unscorable) as error:
        fetch_https(server.url(path), [f"IMAGES.example:{server.port}"], LIMIT, time.monotonic() + 9, server.network())
    assert error.value.reason is Reason.UNREADABLE
    assert len(server.requests) == asked


def test_redirects_are_followed_to_listed_hosts_only(server: Server) -> None:
    """Listed hosts may redirect to each other, but not to a private address."""
    server.paths["/b.jpg"] = [answer("200 OK", BODY)]
    target = server.url("/b.jpg", "second.example")
    assert server.fetch(redirect(target)) == BODY
    assert server.names[-2:] == ["images.example", "second.example"]
    with pytest.raises(Unscorable, match=r"second\.example resolves to 10\.0\.0\.1") as error:
        server.fetch(redirect(target), server.network("second.example"))
    assert error.value.reason is Reason.FORBIDDEN_URI


def test_one_private_address_among_public_ones_is_enough(server: Server) -> None:
    """All addresses are checked before a connection; the default check refuses the loopback."""
    endpoints = [Endpoint(socket.AF_INET, (ip, server.port)) for ip in ("127.0.0.1", "10.0.0.1")]
    before = server.connections
    for judge in (is_public, lambda ip: ip.is_loopback):
        with pytest.raises(Unscorable) as error:
            server.fetch(answer("200 OK"), replace(server.network(), resolve=lambda *_: endpoints, allows=judge))
        assert error.value.reason is Reason.FORBIDDEN_URI
    assert server.connections == before
    assert Network().allows is is_public
    assert Network().resolve is resolve_host


def test_a_name_is_asked_once(server: Server) -> None:
    """A name that changes after the check gains nothing: the checked address is used."""
    answers = iter(["127.0.0.1", "10.0.0.1"])

    def resolve(_: str, port: int, __: float) -> list[Endpoint]:
        return [Endpoint(socket.AF_INET, (next(answers), port))]

    assert server.fetch(answer("200 OK", BODY), replace(server.network(), resolve=resolve)) == BODY
    assert next(answers) == "10.0.0.1"


def test_next_address_is_tried(server: Server) -> None:
    """An address that refuses does not stop the fetch while another one answers."""
    with socket.create_server(("127.0.0.2", 0)) as closed:
        dead = closed.getsockname()
    endpoints = [Endpoint(socket.AF_INET, dead), Endpoint(socket.AF_INET, ("127.0.0.1", server.port))]
    assert server.fetch(answer("200 OK", BODY), replace(server.network(), resolve=lambda *_: endpoints)) == BODY
    for left in (endpoints[:1], []):
        network = replace(server.network(), resolve=lambda *_, left=left: left)
        with pytest.raises(TemporaryFailure):
            server.fetch(answer("200 OK"), network)


def test_certificates_are_checked_by_name(server: Server, tmp_path: Path) -> None:
    """A certificate of another name or authority is no answer about the image."""
    with serve(tmp_path, "other.example") as impostor, pytest.raises(PayloadUnavailable, match="certificate"):
        impostor.fetch(answer("200 OK", BODY))
    network = replace(server.network(), make_context=make_tls_context)
    with pytest.raises(PayloadUnavailable, match="certificate"):
        server.fetch(answer("200 OK", BODY), network)


def test_slow_handshake_ends_in_time(server: Server) -> None:
    """The time limit covers a server that accepts and then sends nothing."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = Endpoint(socket.AF_INET, silent.getsockname())
        with pytest.raises(TemporaryFailure):
            server.fetch(answer("200 OK"), replace(server.network(), resolve=lambda *_: [endpoint]), timeout_s=0.3)


@pytest.mark.parametrize(
    ("handlers", "data"),
    [([answer("503 Busy"), answer("500 Oops"), answer("200 OK", BODY)], BODY), ([answer("503 Busy")], None)],
)
def test_read_payload_persists_until_its_limit(server: Server, handlers: list[Handler], data: bytes | None) -> None:
    """A short overload is waited out; a lasting one is no answer and tells no secret."""
    server.paths["/retry.jpg"] = list(handlers)
    settings = PayloadSettings(https_hosts=(f"images.example:{server.port}",), timeout_s=20 if data else 3)
    image = ImageSource(uri=server.url("/retry.jpg"))
    read = functools.partial(
        read_payload, ScoreRequest(request_id="a", content_id="a", image=image), settings, LIMIT, server.network()
    )
    before = len(server.requests)
    if data:
        assert read() == data
    else:
        with pytest.raises(PayloadUnavailable) as error:
            read()
        assert "hunter2" not in str(error.value)
    assert len(server.requests) - before > 1


@given(st.text(), st.text(alphabet="abc/"), st.text())
def test_described_uris_hold_no_secret(user: str, path: str, query: str) -> None:
    """Text before the host or after the path is not repeated."""
    described = describe_uri(f"s3://{user}S@host{path}?{query}S#S")
    assert "S" not in described.replace("S3", "")
