"""Is the service alive, may it have traffic, and what does it count: one small HTTP port for probes and Prometheus.

A probe that only asks whether the process runs is no good: engines report that they are ready after their device died.
So a canary sends known faces through the live engine all the time, and the verdicts rest on that.
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
CHECK_EVERY_S = 0.2  # how often the server looks for requests that took too long

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class HealthVerdict:
    """A probe's answer; `reasons` is empty when it is good."""

    ok: bool
    reasons: tuple[str, ...]


class HealthState:
    """What the service last did, as told by its threads; thread-safe.

    Live: the poll loop advanced, and a canary inference succeeded, within the ages that the settings allow. With
    `engine_elsewhere`, in another process, the poll loop alone: that engine has probes of its own, and restarting a
    healthy scorer does not bring it back.
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
        self._polled = self._canary_succeeded = clock()  # a service that starts has as long as one that runs
        self._canary_ok: bool | None = None
        self._canary_detail = "none has run yet"
        self._ready, self._why_not = False, "the service is starting"

    def polled(self) -> None:
        """Note that the poll loop went round."""
        with self._lock:
            self._polled = self._clock()

    def canary(self, ok: bool, detail: str) -> None:  # noqa: FBT001 - what a canary found is a yes or a no
        """Note how a canary inference ended; `detail` says what was wrong."""
        with self._lock:
            changed = ok != self._canary_ok
            self._canary_ok, self._canary_detail = ok, redact_text(detail)
            if ok:
                self._canary_succeeded = self._clock()
        if changed and ok:
            log.info("the canary inference succeeds")
        elif not ok:
            log.warning("the canary inference fails", detail=detail)

    def set_ready(self, ready: bool, why: str) -> None:  # noqa: FBT001 - it sets a yes or a no
        """Note whether the bundle is verified against the live engine, and why not."""
        with self._lock:
            self._ready, self._why_not = ready, redact_text(why)

    def live(self) -> HealthVerdict:
        """Say whether to leave this process running."""
        with self._lock:
            return _verdict(self._stale_poll(), None if self._engine_elsewhere else self._stale_canary())

    def ready(self) -> HealthVerdict:
        """Say whether records flow through this process as they should."""
        with self._lock:
            canary = None if self._canary_ok else f"canary inference: {self._canary_detail}"
            return _verdict(None if self._ready else self._why_not, canary, self._stale_canary())

    def _stale_poll(self) -> str | None:
        age_s, limit_s = self._clock() - self._polled, self._settings.max_poll_age_s
        return f"the poll loop has not gone round for {age_s:.0f} s; {limit_s:g} s allowed" if age_s > limit_s else None

    def _stale_canary(self) -> str | None:
        age_s, limit_s = self._clock() - self._canary_succeeded, self._settings.max_canary_age_s
        return (
            f"no canary inference has succeeded for {age_s:.0f} s; {limit_s:g} s allowed" if age_s > limit_s else None
        )


def _verdict(*reasons: str | None) -> HealthVerdict:
    found = tuple(reason for reason in reasons if reason is not None)
    return HealthVerdict(not found, found)


class Canary:
    """Runs `check` at once and then `every_s` seconds after each end, on a thread of its own, so never twice at a time.

    `check` raises when the engine is not what it should be. A context manager: leaving the block stops it.
    """

    def __init__(self, check: Callable[[], object], state: HealthState, every_s: float) -> None:
        self._check, self._state, self._every_s = check, state, every_s
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="canary", daemon=True)
        self._thread.start()

    def stop(self, timeout_s: float = 1.0) -> None:
        """Start no further check; waits at most `timeout_s` for one under way, which may hang with its engine."""
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
            except Exception as error:  # noqa: BLE001 - whatever an engine raises, the probe must say it
                self._state.canary(ok=False, detail=f"{type(error).__name__}: {error}")
            else:
                self._state.canary(ok=True, detail="")
            self._stopped.wait(self._every_s)


class HealthServer:
    """Serves /health/live, /health/ready and /metrics while its block runs; clients cannot hold it up.

    Attributes:
        url: where it listens, with the port that was free if 0 was asked for.

    Raises:
        OSError: the port is taken.
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
    """A thread for each connection, at most `MAX_CONNECTIONS` of them, none for longer than `MAX_REQUEST_S`.

    When all are taken, the oldest is cut off: a probe takes milliseconds, so the oldest is the one that dawdles.
    """

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128  # who is not taken yet; beyond it, a client waits a second before it tries again

    def __init__(self, host: str, port: int, state: HealthState, metrics: Metrics) -> None:
        self.state, self.metrics = state, metrics
        self._open: dict[socket.socket, float] = {}  # in the order of arrival
        self._lock = threading.Lock()
        self.address_family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        super().__init__((host, port), _Handler)

    def server_bind(self) -> None:
        """Bind without asking the name service what this host is called, as the base class does."""
        TCPServer.server_bind(self)

    def process_request(self, request: Any, client_address: Any) -> None:  # noqa: ANN401 - as in the base class
        with self._lock:
            if len(self._open) >= MAX_CONNECTIONS:
                self._cut_off(next(iter(self._open)))
            self._open[request] = time.monotonic()
        super().process_request(request, client_address)

    def service_actions(self) -> None:
        too_old = time.monotonic() - MAX_REQUEST_S
        with self._lock:
            for request in [request for request, since in self._open.items() if since < too_old]:
                self._cut_off(request)

    def shutdown_request(self, request: Any) -> None:  # noqa: ANN401 - as in the base class
        with self._lock:
            self._open.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ANN401, ARG002 - as in the base class
        log.debug("a client of the health port went away")

    def _cut_off(self, request: socket.socket) -> None:
        del self._open[request]
        with suppress(OSError):  # it may have gone by itself
            request.shutdown(socket.SHUT_RDWR)  # wakes its thread, which then closes it


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/metrics":
            encode, kind = choose_encoder(self.headers.get("Accept", ""))
            self._answer(HTTPStatus.OK, kind, encode(self.server.metrics.registry))
        elif path in {"/health/live", "/health/ready"}:
            verdict = self.server.state.live() if path == "/health/live" else self.server.state.ready()
            self._say(HTTPStatus.OK if verdict.ok else HTTPStatus.SERVICE_UNAVAILABLE, asdict(verdict))
        else:
            self._say(HTTPStatus.NOT_FOUND, {"error": "here are /health/live, /health/ready and /metrics"})

    do_HEAD = do_GET  # noqa: N815 - the base class looks for this name

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:  # noqa: ARG002 - base
        """Refuse what is not GET, HEAD or HTTP at all, without repeating it."""
        status = HTTPStatus.METHOD_NOT_ALLOWED if code == HTTPStatus.NOT_IMPLEMENTED else HTTPStatus(code)
        self._say(status, {"error": status.phrase})

    def version_string(self) -> str:
        """Name the product, not its Python."""
        return "unlensed"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Write nothing: probes ask every few seconds."""

    def _say(self, status: HTTPStatus, body: dict[str, object]) -> None:
        self._answer(status, "application/json", json.dumps(body).encode() + b"\n")

    def _answer(self, status: HTTPStatus, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        if status is HTTPStatus.METHOD_NOT_ALLOWED:
            self.send_header("Allow", "GET, HEAD")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
