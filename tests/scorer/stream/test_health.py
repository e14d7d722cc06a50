"""Probes: when a service is live and ready, and that no client can block others."""

import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from scorer.settings import HealthSettings
from scorer.stream import health
from scorer.stream.health import Canary, HealthServer, HealthState
from scorer.stream.metrics import Metrics

SETTINGS = HealthSettings(port=0, max_poll_age_s=30, max_canary_age_s=300)


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        """Return the time that the test has set."""
        return self.now


@pytest.fixture
def clock() -> Clock:
    """The clock that `state` reads."""
    return Clock()


@pytest.fixture
def state(clock: Clock) -> HealthState:
    """The state of a service that has just started."""
    return HealthState(SETTINGS, clock)


@pytest.fixture
def server(state: HealthState) -> Iterator[HealthServer]:
    """A server on a free port."""
    with HealthServer(SETTINGS, state, Metrics()) as running:
        yield running


def ask(server: HealthServer, path: str, method: str = "GET", **headers: str) -> tuple[int, str, str]:
    """Return status, content type and body of an answer."""
    connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=10)
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    body = answer.read().decode()
    connection.close()
    return answer.status, answer.headers["Content-Type"], body


def connect(server: HealthServer, sent: bytes) -> socket.socket:
    """Return a connection that has sent `sent` and no more."""
    parts = urlsplit(server.url)
    connection = socket.create_connection((parts.hostname, parts.port), timeout=10)
    connection.sendall(sent)
    return connection


def test_a_starting_service_is_live_and_not_ready(state: HealthState, clock: Clock) -> None:
    """The limits for its first poll and canary are the same as later."""
    assert state.live().ok
    assert state.ready().reasons == ("the service is starting", "canary inference: none has run yet")
    clock.now += 31
    assert state.live().reasons == ("the poll loop has not run for 31 s; 30 s allowed",)


def test_ready_requires_a_verified_bundle_and_a_canary(state: HealthState) -> None:
    """Each alone is not enough, and each can be withdrawn."""
    state.set_ready(ready=True, why="")
    assert not state.ready().ok
    state.canary(ok=True, detail="")
    assert state.ready() == health.HealthVerdict(ok=True, reasons=())
    state.canary(ok=False, detail="EngineFailed: timeout")
    assert state.ready().reasons == ("canary inference: EngineFailed: timeout",)
    state.canary(ok=True, detail="")
    state.set_ready(ready=False, why="draining")
    assert state.ready().reasons == ("draining",)


def test_a_failing_canary_makes_a_service_not_live_only_after_its_limit(state: HealthState, clock: Clock) -> None:
    """An outage leaves the scorer live for `max_canary_age_s`."""
    state.canary(ok=True, detail="")
    for _ in range(300):
        clock.now += 1
        state.polled()
        state.canary(ok=False, detail="down")
        assert state.live().ok
    clock.now += 1
    state.polled()
    assert state.live().reasons == ("no canary inference has succeeded for 301 s; 300 s allowed",)
    state.canary(ok=True, detail="")
    assert state.live().ok


def test_a_canary_that_hangs_is_neither_live_nor_ready(state: HealthState, clock: Clock) -> None:
    """A last success that is too old does not count, although nothing failed since."""
    state.set_ready(ready=True, why="")
    state.canary(ok=True, detail="")
    clock.now += 301
    state.polled()
    assert not state.live().ok
    assert not state.ready().ok


def test_a_remote_engine_does_not_make_a_service_not_live(clock: Clock) -> None:
    """While a remote engine is down a polling scorer is live and not ready."""
    state = HealthState(SETTINGS, clock, engine_elsewhere=True)
    state.set_ready(ready=True, why="")
    state.canary(ok=True, detail="")
    clock.now += 10_000
    state.polled()
    assert state.live().ok
    assert not state.ready().ok
    clock.now += 31
    assert state.live().reasons == ("the poll loop has not run for 31 s; 30 s allowed",)


def test_probes_answer_with_reasons(server: HealthServer, state: HealthState) -> None:
    """200 or 503, and a body with the reasons, without secrets in an exception's message."""
    assert ask(server, "/health/live") == (200, "application/json", '{"ok": true, "reasons": []}\n')
    state.set_ready(ready=True, why="")
    state.canary(ok=False, detail="cannot reach https://u:zQ7@engine/p?token=zQ7")
    status, _, body = ask(server, "/health/ready?full=1")
    assert status == 503
    assert json.loads(body)["reasons"] == ["canary inference: cannot reach https://engine/p?<redacted>"]
    state.canary(ok=True, detail="")
    assert ask(server, "/health/ready")[0] == 200


def test_metrics_are_served_as_asked_for(server: HealthServer) -> None:
    """Text by default, OpenMetrics for clients that accept it."""
    assert "unlensed_backend_up 0.0" in ask(server, "/metrics")[2]
    _, kind, body = ask(server, "/metrics", Accept="application/openmetrics-text; version=1.0.0")
    assert kind.startswith("application/openmetrics-text")
    assert "unlensed_backend_up" in {family.name for family in text_string_to_metric_families(body)}


@pytest.mark.parametrize("path", ["/", "/health", "/health/live/", "/metrics/..", "/metrics2", "/health/../metrics"])
def test_other_paths_are_not_found(server: HealthServer, path: str) -> None:
    """Other paths are not found."""
    assert ask(server, path)[0] == 404


def test_only_get_and_head(server: HealthServer) -> None:
    """HEAD has no body; all else is refused without an echo."""
    with connect(server, b"HEAD /metrics HTTP/1.1\r\n\r\n") as connection, connection.makefile("rb") as answer:
        head, _, body = answer.read().partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.0 200 OK")
        assert body == b""
    for method in ("POST", "PUT", "DELETE", "OPTIONS", "TRACE", "zQ7"):
        status, _, body = ask(server, "/health/live", method)
        assert (status, json.loads(body)) == (405, {"error": "Method Not Allowed"})
    with connect(server, b"zQ7 zQ7 zQ7 zQ7\r\n\r\n") as connection:
        assert b"zQ7" not in connection.recv(10_000)
    assert ask(server, "/health/live")[0] == 200


def test_silent_clients_block_no_others(server: HealthServer) -> None:
    """Beyond the limit of silent connections a probe is answered; threads stay few."""
    before = threading.active_count()
    silent = [connect(server, b"GET /health/live HT") for _ in range(3 * health.MAX_CONNECTIONS)]
    assert ask(server, "/health/live")[0] == 200
    deadline = time.monotonic() + 10
    while threading.active_count() - before > health.MAX_CONNECTIONS + 1:  # threads end a little later
        assert time.monotonic() < deadline, f"{threading.active_count() - before} threads"
        time.sleep(0.01)
    assert silent[0].recv(1) == b""
    for connection in silent:
        connection.close()


def drip(connection: socket.socket) -> None:
    """Send an endless header slowly, up to a bound."""
    for _ in range(500):
        connection.sendall(b"y")
        threading.Event().wait(0.02)


def test_a_slow_request_is_closed(state: HealthState, monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection of a client that sends slowly is closed, although it is never silent."""
    monkeypatch.setattr(health, "MAX_REQUEST_S", 0.3)
    with HealthServer(SETTINGS, state, Metrics()) as server, connect(server, b"GET /metrics HTTP/1.1\r\nX: ") as slow:
        with pytest.raises(ConnectionError):
            drip(slow)
        assert ask(server, "/health/live")[0] == 200


def test_closed_connections_print_nothing(server: HealthServer, capfd: pytest.CaptureFixture[str]) -> None:
    """A connection reset within a request prints no traceback."""
    for _ in range(20):
        connection = connect(server, b"GET /metrics HTTP/1.1\r\n")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        connection.close()
    assert ask(server, "/metrics")[0] == 200
    assert capfd.readouterr() == ("", "")


def test_a_taken_port_is_named(server: HealthServer, state: HealthState) -> None:
    """The error names the port and the setting."""
    taken = SETTINGS.model_copy(update={"port": urlsplit(server.url).port})
    with pytest.raises(OSError, match=rf"127\.0\.0\.1:{taken.port}; choose another UNLENSED_HEALTH__PORT"):
        HealthServer(taken, state, Metrics())


def test_a_server_releases_its_port(state: HealthState) -> None:
    """After the block the port is closed."""
    with HealthServer(SETTINGS, state, Metrics()) as server:
        pass
    with pytest.raises(ConnectionRefusedError):
        connect(server, b"")


def test_canaries_run_one_after_another(state: HealthState) -> None:
    """At once and again, never two at a time however long one takes, and none after `stop`."""
    running, most, runs = 0, 0, threading.Semaphore(0)

    def check() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        time.sleep(0.005)
        running -= 1
        runs.release()

    with Canary(check, state, every_s=0.001):
        for _ in range(5):
            assert runs.acquire(timeout=10)
    assert not any(thread.name == "canary" for thread in threading.enumerate())
    assert most == 1


def test_a_canary_reports_its_result(state: HealthState) -> None:
    """A check that raises makes the service unready with its message."""
    state.set_ready(ready=True, why="")
    checked = threading.Semaphore(0)
    broken = threading.Event()
    broken.set()

    def check() -> None:
        checked.release()
        if broken.is_set():
            message = "golden face 3 is 4.1 nats off"
            raise RuntimeError(message)

    with Canary(check, state, every_s=0.001):
        for _ in range(2):
            checked.acquire(timeout=10)
        assert state.ready().reasons == ("canary inference: RuntimeError: golden face 3 is 4.1 nats off",)
        broken.clear()
        deadline = time.monotonic() + 10
        while not state.ready().ok:  # the check under way may still have found it broken
            assert time.monotonic() < deadline, state.ready()
            time.sleep(0.001)


def test_a_hanging_canary_does_not_delay_the_stop(state: HealthState) -> None:
    """`stop` does not wait for a check that does not return."""
    release = threading.Event()
    canary = Canary(release.wait, state, every_s=1)
    canary.stop(timeout_s=0.01)
    assert not state.ready().ok
    release.set()
