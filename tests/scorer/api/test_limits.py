"""What does not fit is refused at once, and nothing of an upload reaches a disk."""

import json
import tempfile
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scorer.api.admission import Admission, Overloaded, Ticket
from tests.scorer.api.conftest import BOUNDARY, Client, Serve, make_form, wait_for


def start_upload(client: Client, body: bytes, sent: int) -> "tuple[object, object]":
    """Send the headers and the first bytes of a form; return the connection and what sends the rest."""
    connection = client.connect()
    head = (
        f"POST /v1/score HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\nConnection: close\r\n"
        f"Content-Type: multipart/form-data; boundary={BOUNDARY}\r\n\r\n"
    )
    connection.sendall(head.encode() + body[:sent])

    def finish() -> int:
        connection.sendall(body[sent:])
        answer = b""
        while part := connection.recv(65536):
            answer += part
        connection.close()
        return int(answer.split()[1])

    return connection, finish


def in_flight(client: Client) -> str:
    """Return the line of the metric."""
    lines = client.get("/metrics").body.decode().splitlines()
    return next(line for line in lines if line.startswith("unlensed_in_flight_images "))


@pytest.mark.parametrize("limits", [{"max_in_flight_images": 1}, {"max_in_flight_bytes": 1_000_000}])
def test_a_full_queue_answers_429(serve: Serve, portrait: bytes, limits: dict[str, int]) -> None:
    """While an upload takes the room, another one gets 429 with Retry-After; then both are scored."""
    with serve(**limits) as client:
        body = make_form(("a", portrait))
        _, finish = start_upload(client, body, 1000)
        wait_for(lambda: in_flight(client).endswith(" 1.0"))
        refused = client.post_files(("b", portrait))
        assert (refused.status, refused.code) == (429, "overloaded")
        assert int(refused.headers["retry-after"]) >= 1
        assert client.get("/health/ready").status == 200
        assert finish() == 200
        assert client.post_files(("b", portrait)).status == 200
        assert in_flight(client).endswith(" 0.0")


def test_a_client_that_leaves_returns_its_room(serve: Serve, portrait: bytes) -> None:
    """A connection that closes in the middle of its body is not in flight any more."""
    with serve(max_in_flight_images=1) as client:
        connection, _ = start_upload(client, make_form(("a", portrait)), 1000)
        wait_for(lambda: in_flight(client).endswith(" 1.0"))
        connection.close()
        wait_for(lambda: in_flight(client).endswith(" 0.0"))
        assert client.post_files(("b", portrait)).status == 200


def test_a_slow_body_is_given_up(serve: Serve, portrait: bytes) -> None:
    """A body that does not arrive in time gets 408 and returns its room."""
    with serve(body_timeout_s=0.3) as client:
        connection, _ = start_upload(client, make_form(("a", portrait)), 1000)
        assert connection.recv(1000).startswith(b"HTTP/1.1 408 ")
        connection.close()
        wait_for(lambda: in_flight(client).endswith(" 0.0"))


def test_a_large_body_is_refused(serve: Serve) -> None:
    """Stated or sent in chunks without a length, it gets 413."""
    with serve(max_body_bytes=10_000) as client:
        stated = client.post_files(("a", bytes(20_000)))
        assert (stated.status, stated.code) == (413, "too_large")
        connection = client.connect()
        head = (
            b"POST /v1/score HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n"
            b"Content-Type: application/json\r\n\r\n"
        )
        connection.sendall(head + b"4e20\r\n" + bytes(20_000) + b"\r\n")
        assert connection.recv(1000).startswith(b"HTTP/1.1 413 ")
        connection.close()


def test_an_image_over_its_limit_is_413(serve: Serve, portrait: bytes) -> None:
    """The limit of images is that of every job; the answer is a result with its reason."""
    with serve(others={"limits": {"max_bytes": 1000}}) as client:
        answer = client.post_files(("a", portrait))
    assert answer.status == 413
    assert answer.json()["results"][0]["reason_codes"] == ["too_many_bytes"]


def test_uploads_stay_in_memory(client: Client, monkeypatch: pytest.MonkeyPatch, portrait: bytes) -> None:
    """A form of several MiB is scored where no temporary file can be made."""
    monkeypatch.setattr(tempfile, "tempdir", "/proc/nothing")
    answer = client.post_files(("a", portrait), ("b", bytes(4 << 20)))
    assert [each["status"] for each in answer.json()["results"]] == ["scored", "unsupported"]


def test_clients_at_once_get_their_own_results(client: Client, portrait: bytes) -> None:
    """Requests that share batches get the answers to their own names, all with the same faces."""
    answers: dict[str, object] = {}

    def ask(name: str) -> None:
        (answers[name],) = client.post_files((name, portrait)).json()["results"]

    threads = [threading.Thread(target=ask, args=(str(number),)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {name: each["request_id"] for name, each in answers.items()} == {name: name for name in answers}
    assert len({json.dumps(each["faces"]) for each in answers.values()}) == 1
    assert len(answers) == 12


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 60))))
def test_room_is_never_exceeded_and_always_returned(steps: list[tuple[int, int]]) -> None:
    """Whatever comes, grows and goes, the limits hold, and the end is empty; an image alone always fits."""
    admission = Admission(3, 100)
    tickets: list[Ticket] = []
    for step, size in steps:
        try:
            if step <= 1:
                tickets.append(admission.admit(size * (step + 1)))
            elif tickets:
                tickets[size % len(tickets)].resize(2 * size) if step == 2 else tickets.pop().release()
        except Overloaded as refused:
            assert refused.retry_after_s >= 1  # noqa: PT017 - both ends are allowed
        assert admission.images == len(tickets) <= 3
        assert admission.bytes == sum(ticket.size for ticket in tickets)
        assert admission.bytes <= 100 or sum(ticket.size > 0 for ticket in tickets) == 1
    for ticket in tickets:
        ticket.release()
        ticket.release()
    assert (admission.images, admission.bytes) == (0, 0)
