"""Serves health probes and metrics on one HTTP port: is the service alive, is it ready, what does it count.

It is not enough to ask whether the process runs: engines report that they are ready after their device has failed. So a
canary regularly sends known faces through the live engine, and the probes depend on its results.
"""

import json
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from types import TracebackType
from typing import Any, Self

from prometheus_client.exposition import choose_encoder

from scorer.observe.logs import get_logger
from scorer.observe.redact import redact_text
from scorer.settings import HealthSettings
from scorer.stream.metrics import Metrics

MAX_CONNECTIONS = 16
MAX_REQUEST_S = 5.0
CHECK_EVERY_S = 0.2  # how often the server searches for requests that exceed MAX_REQUEST_S

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class HealthVerdict:
    """The answer of a probe; `reasons` is empty when `ok`."""

    ok: bool
    reasons: tuple[str, ...]


class HealthState:
    """The state of the service for probes, reported by its threads; thread-safe.

    Live: the last poll and the last successful canary inference are not older than the settings allow. With
    `engine_elsewhere` (the engine is another process) only the poll counts: that engine has its own probes, and a
    restart of the scorer does not repair it.
    Ready: the bundle is verified against the live engine, and the last canary inference succeeded.
    """

    def __init__(
        self,
        settings: HealthSettings,
        clock: Callable[[], float] = time.monotonic,
        *,
        engine_elsewhere: bool = False,
    ) -> None:
        self._settings, self._clock, self._engine_elsewhere = settings, clock, engine_elsewhere
        self._lock = threading.Lock()
        self._polled = self._canary_succeeded = clock()  # a starting service has the same limits
        self._canary_ok: bool | None = None
        self._canary_detail = "none has run yet"
        self._ready, self._why_not = False, "the service is starting"

    def polled(self) -> None:
        """Note that the poll loop ran."""
        with self._lock:
            self._polled = self._clock()

    def canary(self, ok: bool, detail: str) -> None:  # noqa: FBT001 - a result is a flag
        """Note the result of a canary inference; `detail` states the error."""
        with self._lock:
            changed = ok != self._canary_ok
            self._canary_ok, self._canary_detail = ok, redact_text(detail)
            if ok:
                self._canary_succeeded = self._clock()
        if changed and ok:
            log.info("the canary inference succeeds")
        elif not ok:
            log.warning("the canary inference fails", detail=detail)

    def set_ready(self, ready: bool, why: str) -> None:  # noqa: FBT001 - it sets a flag
        """Note whether the bundle is verified against the live engine, and if not, why."""
        with self._lock:
            self._ready, self._why_not = ready, redact_text(why)

    def live(self) -> HealthVerdict:
        """Return whether this process may keep running."""
        with self._lock:
            return _verdict(self._stale_poll(), None if self._engine_elsewhere else self._stale_canary())

    def ready(self) -> HealthVerdict:
        """Return whether this process can answer records."""
        with self._lock:
            canary = None if self._canary_ok else f"canary inference: {self._canary_detail}"
            return _verdict(None if self._ready else self._why_not, canary, self._stale_canary())

    def _stale_poll(self) -> str | None:
        age_s, limit_s = self._clock() - self._polled, self._settings.max_poll_age_s
        return f"the poll loop has not run for {age_s:.0f} s; {limit_s:g} s allowed" if age_s > limit_s else None

    def _stale_canary(self) -> str | None:
        age_s, limit_s = self._clock() - self._canary_succeeded, self._settings.max_canary_age_s
        return (
            f"no canary inference has succeeded for {age_s:.0f} s; {limit_s:g} s allowed" if age_s > limit_s else None
        )


def _verdict(*reasons: str | None) -> HealthVerdict:
    found = tuple(reason for reason in reasons if reason is not None)
    return HealthVerdict(not found, found)


class Canary:
    """Runs `check` at once, and then `every_s` seconds after each run, on its own thread.

    `check` raises when the engine gives wrong results or none. A context manager: the end of the block stops it.
    """

    def __init__(self, check: Callable[[], object], state: HealthState, every_s: float) -> None:
        self._check, self._state, self._every_s = check, state, every_s
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="canary", daemon=True)
        self._thread.start()

    def stop(self, timeout_s: float = 1.0) -> None:
        """Start no further check; wait at most `timeout_s` for a running one, which may hang with its engine."""
        self._stopped.set()
        self._thread.join(timeout_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                self._check()
            except Exception as error:  # noqa: BLE001 - the probe must report any error of an engine
                self._state.canary(ok=False, detail=f"{type(error).__name__}: {error}")
            else:
                self._state.canary(ok=True, detail="")
            self._stopped.wait(self._every_s)


class HealthServer:
    """Serves /health/live, /health/ready and /metrics within its block; slow clients cannot block others.

    Attributes:
        url: its address, with the chosen port if the setting is 0.

    Raises:
        OSError: the port is in use.
    """

    def __init__(self, settings: HealthSettings, state: HealthState, metrics: Metrics) -> None:
        try:
            self._server = _Server(settings.host, settings.port, state, metrics)
        except OSError as error:
            message = f"cannot listen on {settings.host}:{settings.port}; choose another UNLENSED_HEALTH__PORT"
            raise OSError(error.errno, f"{message} ({error.strerror})") from error
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        self.url = f"http://{host}:{self._server.server_address[1]}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(CHECK_EVERY_S,), name="health", daemon=True
        )

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    """Uses a thread for each connection, at most `MAX_CONNECTIONS`, each for at most `MAX_REQUEST_S`.

    When all are in use, the oldest connection is closed: a probe takes milliseconds, so the oldest client is too slow.
    """

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128  # connections not accepted yet; further clients retry after a second

    def __init__(self, host: str, port: int, state: HealthState, metrics: Metrics) -> None:
        self.state, self.metrics = state, metrics
        self._open: dict[socket.socket, float] = {}  # with start times, oldest first
        self._lock = threading.Lock()
        self.address_family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        super().__init__((host, port), _Handler)

    def server_bind(self) -> None:
        """Bind without a lookup of the host name, which the base class does."""
        TCPServer.server_bind(self)

    def process_request(self, request: Any, client_address: Any) -> None:  # noqa: ANN401 - as in the base class
        with self._lock:
            if len(self._open) >= MAX_CONNECTIONS:
                self._close_connection(next(iter(self._open)))
            self._open[request] = time.monotonic()
        super().process_request(request, client_address)

    def service_actions(self) -> None:
        too_old = time.monotonic() - MAX_REQUEST_S
        with self._lock:
            for request in [request for request, since in self._open.items() if since < too_old]:
                self._close_connection(request)

    def shutdown_request(self, request: Any) -> None:  # noqa: ANN401 - as in the base class
        with self._lock:
            self._open.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ANN401, ARG002 - as in the base class
        log.debug("a client of the health port closed its connection")

    def _close_connection(self, request: socket.socket) -> None:
        del self._open[request]
        with suppress(OSError):  # the client may have closed it
            request.shutdown(socket.SHUT_RDWR)  # wakes its thread, which then closes it


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/metrics":
            encode, kind = choose_encoder(self.headers.get("Accept", ""))
            self._send(HTTPStatus.OK, kind, encode(self.server.metrics.registry))
        elif path in {"/health/live", "/health/ready"}:
            verdict = self.server.state.live() if path == "/health/live" else self.server.state.ready()
            self._send_json(HTTPStatus.OK if verdict.ok else HTTPStatus.SERVICE_UNAVAILABLE, asdict(verdict))
        else:
            self._send_json(HTTPStatus.NOT_FOUND, {"error": "not found; use /health/live, /health/ready or /metrics"})

    do_HEAD = do_GET  # noqa: N815 - the base class looks for this name

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:  # noqa: ARG002 - base
        """Refuse other methods than GET and HEAD, and bytes that are not HTTP, without an echo of the request."""
        status = HTTPStatus.METHOD_NOT_ALLOWED if code == HTTPStatus.NOT_IMPLEMENTED else HTTPStatus(code)
        self._send_json(status, {"error": status.phrase})

    def version_string(self) -> str:
        """Return the name of the product instead of the Python version."""
        return "unlensed"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Write nothing: probes call every few seconds."""

    def _send_json(self, status: HTTPStatus, body: dict[str, object]) -> None:
        self._send(status, "application/json", json.dumps(body).encode() + b"\n")

    def _send(self, status: HTTPStatus, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        if status is HTTPStatus.METHOD_NOT_ALLOWED:
            self.send_header("Allow", "GET, HEAD")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
