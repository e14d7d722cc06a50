"""`explain: true` in a request of the HTTP service: the same result with the reasons of its least typical face."""

import base64
import threading

import jsonschema
import pytest

from ingest.reasons import Reason, Unscorable
from ingest.sandbox import Sandbox
from scorer.bundle.bundle import Bundle
from scorer.engines.openvino import LocalEmbedder
from tests.scorer.api.conftest import Client, Serve, running, wait_for

pytestmark = pytest.mark.slow

VARYING = ("timing_ms", "scored_at", "explanation")


def ask(data: bytes, **fields: object) -> dict[str, object]:
    """Return a request for an image."""
    own = {"request_id": "r", "content_id": "r", "image": {"bytes": base64.b64encode(data).decode()}}
    return own | fields


def test_an_explained_result_is_the_plain_one_with_reasons(client: Client, portrait: bytes) -> None:
    """JSON and form give the plain result bit for bit, the reasons, and what they cost."""
    plain = client.post_json(ask(portrait)).json()
    by_json = client.post_json(ask(portrait, explain=True))
    explained = by_json.json()
    (by_form,) = client.post_files(("r", portrait), request={"explain": True}).json()["results"]
    assert by_json.status == 200
    for each in (explained, by_form):
        assert {name: each[name] for name in each if name not in VARYING} == {
            name: plain[name] for name in plain if name not in VARYING
        }
    explanation = explained["explanation"]
    assert explanation["cost"]["engine_passes"] == 52
    assert explanation["occlusion"] == by_form["explanation"]["occlusion"]
    assert explanation["sentences"]
    assert "explanation" not in plain
    jsonschema.validate(explained, client.get("/v1/schema").json()["explained_result"])


def test_what_has_no_score_gets_the_plain_result(client: Client) -> None:
    """A file that is no image is answered as without `explain`."""
    answer = client.post_json(ask(b"no image", explain=True))
    assert (answer.status, answer.json()["status"]) == (415, "unsupported")
    assert "explanation" not in answer.json()


def test_an_explanation_that_fails_leaves_the_score(
    client: Client, portrait: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If a decoding process is killed after the score, the answer is the plain result."""

    def fail(*_: object) -> None:
        raise Unscorable(Reason.TIMED_OUT, "killed")

    monkeypatch.setattr(Sandbox, "show", fail)
    answer = client.post_json(ask(portrait, explain=True))
    assert answer.json()["faces"] == client.post_json(ask(portrait)).json()["faces"]
    assert "explanation" not in answer.json()


def test_explanations_have_their_own_limit(serve: Serve, portrait: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """While one explanation waits, a second one gets 429, and plain images are scored."""
    running_one, go_on = threading.Event(), threading.Event()
    show = Sandbox.show

    def wait(*args: object) -> object:
        running_one.set()
        assert go_on.wait(60)
        return show(*args)

    monkeypatch.setattr(Sandbox, "show", wait)
    with serve(max_in_flight_explanations=1) as client:
        answers = []
        first = threading.Thread(target=lambda: answers.append(client.post_json(ask(portrait, explain=True))))
        first.start()
        assert running_one.wait(60)
        refused = client.post_json(ask(portrait, explain=True))
        assert (refused.status, refused.code) == (429, "overloaded")
        assert client.post_json(ask(portrait)).status == 200
        go_on.set()
        first.join()
        assert "explanation" in answers[0].json()
        wait_for(lambda: client.post_json(ask(portrait, explain=True)).status == 200)


def test_a_service_without_an_own_engine_refuses(
    starter: Bundle, sandbox: Sandbox, embedder: LocalEmbedder, portrait: bytes
) -> None:
    """With Triton there is no crop to show: a typed refusal, and plain images are scored."""
    with running(starter, sandbox, embedder, {}, {"triton": {"url": "grpc://127.0.0.1:1"}}) as client:
        refused = client.post_json(ask(portrait, explain=True))
        assert (refused.status, refused.code) == (422, "cannot_explain")
        assert client.post_json(ask(portrait)).status == 200
