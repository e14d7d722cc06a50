"""A real HTTP proxy before a real store, which can fail and be slow on command."""

import http.client
import http.server
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

_OWN = frozenset({"connection", "transfer-encoding", "content-length", "server", "date"})  # of one hop each


class BadStore(http.server.ThreadingHTTPServer):
    """Passes on every request, unless `judge` refuses it.

    Args:
        address: of the store, http://host:port.

    Attributes:
        judge: told of each request's method and path; returns a status to answer with, or None to pass it on. It may
            take its time.
        answered: paths that were passed on with GET.
    """

    daemon_threads = True

    def __init__(self, address: str) -> None:
        super().__init__(("127.0.0.1", 0), _Proxy)
        self.target = urlsplit(address).netloc
        self.judge: Callable[[str, str], int | None] = lambda _method, _path: None
        self.answered: list[str] = []

    def handle_error(self, request: object, client_address: object) -> None:
        """Print nothing: a client that gave up is not an error of the store."""

    @property
    def address(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.server_port}"


class _Proxy(http.server.BaseHTTPRequestHandler):
    server: BadStore
    protocol_version = "HTTP/1.1"

    def _pass_on(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        status = self.server.judge(self.command, self.path)
        if status is not None:
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        store = http.client.HTTPConnection(self.server.target)
        try:
            store.request(self.command, self.path, body, dict(self.headers))
            answer = store.getresponse()
            data = answer.read()
        finally:
            store.close()
        if self.command == "GET":
            self.server.answered.append(self.path)
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in _OWN:
                self.send_header(name, value)
        self.send_header("Content-Length", answer.getheader("Content-Length") or str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_HEAD = do_PUT = do_POST = _pass_on  # noqa: N815 - the base class looks for them

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002, ANN401 - the base class's
        """Say nothing."""


@contextmanager
def open_bad_store(address: str) -> Iterator[BadStore]:
    """Run a proxy before the store at `address`."""
    with BadStore(address) as server:
        serving = threading.Thread(target=server.serve_forever, args=(0.02,))
        serving.start()
        try:
            yield server
        finally:
            server.shutdown()
            serving.join()


def fail_between(first: int, last: int, folder: str) -> Callable[[str, str], int | None]:
    """Return a function that answers 503 to the requests number `first` to `last` for objects below `/folder/`."""
    lock, seen = threading.Lock(), [0]

    def judge(method: str, path: str) -> int | None:
        if method != "GET" or not path.startswith(f"/{folder}/"):
            return None
        with lock:
            seen[0] += 1
            return 503 if first <= seen[0] <= last else None

    return judge


def hold_back(name: str, seconds: float) -> Callable[[str, str], int | None]:
    """Return a function that delays an object whose path ends in `name`."""

    def judge(_: str, path: str) -> int | None:
        if path.partition("?")[0].endswith(name):
            time.sleep(seconds)
        return None

    return judge
