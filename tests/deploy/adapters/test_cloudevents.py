"""The bridge answers events in their own mode, as the package cloudevents reads and writes them."""

import base64
import json
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from types import ModuleType

import pytest
import uvicorn
from cloudevents.core.bindings.http import HTTPMessage, from_http_event, to_binary_event, to_structured_event
from cloudevents.core.v1.event import CloudEvent

from tests.deploy.adapters.conftest import Load
from tests.scorer.api.conftest import Client, Serve

MODES = {"binary": to_binary_event, "structured": to_structured_event}


@pytest.fixture(scope="module", name="bridge")
def fixture_bridge(load: Load) -> ModuleType:
    """The adapter."""
    return load("cloudevents/bridge.py")


@pytest.fixture(name="url")
def fixture_url(bridge: ModuleType, client: Client, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a bridge to the service."""
    monkeypatch.setenv("UNLENSED_URL", client.url)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(bridge.app, log_config=None, ws="none"))
        server.install_signal_handlers = lambda: None
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
        server.should_exit = True
        thread.join()


def send(url: str, message: HTTPMessage) -> tuple[int, HTTPMessage]:
    """Return the answer to a message."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, message.body, message.headers), timeout=120) as answer:  # noqa: S310
            return answer.status, HTTPMessage({k.lower(): v for k, v in answer.headers.items()}, answer.read())
    except urllib.error.HTTPError as error:
        return error.code, HTTPMessage({k.lower(): v for k, v in error.headers.items()}, error.read())


def make_event(data: object) -> CloudEvent:
    """Return an event with a request."""
    attributes = {"type": "upload", "source": "/forum", "subject": "post-1", "datacontenttype": "application/json"}
    return CloudEvent(attributes, data)  # type: ignore[arg-type]  # a wrong one, too


def ask(data: bytes) -> dict[str, object]:
    """Return a request."""
    return {"request_id": "r", "content_id": "c", "image": {"bytes": base64.b64encode(data).decode()}}


@pytest.mark.parametrize("mode", MODES)
def test_an_event_is_answered_in_its_mode(client: Client, url: str, portrait: bytes, mode: str) -> None:
    """The result is that of the service, with the attributes of the topic of results."""
    status, message = send(url, MODES[mode](make_event(ask(portrait))))
    assert status == 200
    assert message.headers["content-type"].startswith(
        "application/cloudevents" if mode == "structured" else "application/json"
    )
    event = from_http_event(message)
    expected = client.post_json(ask(portrait)).json()
    data = event.get_data()
    assert isinstance(data, dict)
    assert data["faces"] == expected["faces"]
    assert (event.get_id(), event.get_type()) == (expected["result_id"], "unlensed.result.v1")
    assert (event.get_source(), event.get_subject()) == ("unlensed/" + expected["model"]["bundle_id"], "post-1")


def test_an_image_that_cannot_be_scored_is_an_event(url: str) -> None:
    """A result with reasons is an answer, not a refusal to be retried."""
    status, message = send(url, to_binary_event(make_event(ask(b"no image"))))
    data = from_http_event(message).get_data()
    assert isinstance(data, dict)
    assert (status, data["status"]) == (200, "unsupported")


def test_refusals_are_passed_on(url: str) -> None:
    """A wrong request has the service's status and reason; what is no event gets 400."""
    status, message = send(url, to_structured_event(make_event({"request_id": "r"})))
    assert (status, json.loads(message.body)["error"]["code"]) == (422, "wrong_schema")
    for headers, body in (({}, b"{}"), ({"content-type": "application/cloudevents+json"}, b"[]")):
        assert send(url, HTTPMessage(headers, body))[0] == 400


def test_an_overload_is_passed_on_with_its_time(
    bridge: ModuleType, url: str, serve: Serve, monkeypatch: pytest.MonkeyPatch, portrait: bytes
) -> None:
    """A broker learns when to retry, and a service that is gone is retried."""
    del bridge
    with serve(max_body_bytes=1000, token_file=None) as small:
        monkeypatch.setenv("UNLENSED_URL", small.url)
        assert send(url, to_binary_event(make_event(ask(portrait))))[0] == 413
    monkeypatch.setenv("UNLENSED_URL", "http://127.0.0.1:1")
    status, message = send(url, to_binary_event(make_event(ask(portrait))))
    assert (status, message.headers["retry-after"]) == (503, "5")
