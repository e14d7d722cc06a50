"""What the HTTP service answers is what every other job answers, and each refusal has a reason."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from openapi_spec_validator import validate

import scorer
from scorer.api.metrics import NAMES
from tests.scorer.api.conftest import Client, Serve

TIMES = ("timing_ms", "scored_at")


@pytest.fixture(scope="module", name="opened")
def fixture_opened(root: Path) -> Iterator[scorer.Scorer]:
    """The starter bundle in this process."""
    with scorer.open_scorer(root / "model_repository", threads=1) as opened:
        yield opened


def ask(data: bytes, **fields: object) -> dict[str, object]:
    """Return a request for an image."""
    own = {"request_id": "r", "content_id": "r", "image": {"bytes": base64.b64encode(data).decode()}}
    return own | fields


def drop_times(result: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON
    """Return a result without what differs between two runs."""
    return {name: value for name, value in result.items() if name not in TIMES}


CASES = {
    "portrait": (lambda portrait: portrait, 200),
    "half": (lambda portrait: portrait[: len(portrait) // 2], None),
    "nothing": (lambda _: b"", 422),
    "text": (lambda _: b"no image", 415),
    "gif": (lambda _: b"GIF89a" + bytes(100), None),
}


@pytest.mark.parametrize("case", CASES)
def test_json_form_and_python_agree(client: Client, opened: scorer.Scorer, portrait: bytes, case: str) -> None:
    """The result of a JSON request and of a form are those of `score_bytes` bit for bit, but for the times."""
    make, status = CASES[case]
    data = make(portrait)
    expected = json.loads(opened.score_bytes(data, name="r").model_dump_json())
    by_json = client.post_json(ask(data))
    by_form = client.post_files(("r", data))
    assert drop_times(by_json.json()) == drop_times(expected)
    assert [drop_times(each) for each in by_form.json()["results"]] == [drop_times(expected)]
    assert by_json.status == by_form.status
    assert status in {None, by_json.status}
    assert by_json.headers["cache-control"] == "no-store"


def test_boxes_and_files_agree(client: Client, opened: scorer.Scorer, portrait: bytes) -> None:
    """Given boxes, and several files in one form, give the same results in the order of the files."""
    faces = [{"face_id": "brought", "box": [180, 70, 95, 110]}]
    expected = json.loads(opened.score_bytes(portrait, faces=faces, name="r").model_dump_json())
    assert drop_times(client.post_json(ask(portrait, faces=faces)).json()) == drop_times(expected)
    (by_form,) = client.post_files(("r", portrait), request={"faces": faces}).json()["results"]
    assert drop_times(by_form) == drop_times(expected)
    several = client.post_files(
        ("a", portrait), ("b", b"no image"), ("c", portrait), request={"attributes": {"k": "v"}}
    )
    assert several.status == 200
    results = several.json()["results"]
    assert [each["request_id"] for each in results] == ["a", "b", "c"]
    assert [each["status"] for each in results] == ["scored", "unsupported", "scored"]
    assert results[0]["faces"] == results[2]["faces"]
    assert {each["attributes"]["k"] for each in results} == {"v"}


REFUSED: dict[str, tuple[object, int, str]] = {
    "no JSON": (b"{", 422, "not_json"),
    "no object": (b"[]", 422, "wrong_schema"),
    "unknown field": ({**ask(b""), "more": 1}, 422, "wrong_schema"),
    "unknown policy": (ask(b"", policy_id="gone"), 422, "unknown_policy"),
    "large JSON": (b'{"a": [' + b"1," * 600_000 + b"1]}", 413, "too_large"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_bad_request_gets_a_typed_reason(client: Client, case: str) -> None:
    """Each has its status and its code, and no value of the request in its message."""
    request, status, code = REFUSED[case]
    answer = client.post_json(request)
    assert (answer.status, answer.code) == (status, code)


def test_a_bad_form_gets_a_typed_reason(client: Client, portrait: bytes) -> None:
    """No file, too many, an unknown field and fields of one image for two are refused."""
    assert client.post_files().code == "bad_form"
    assert client.post_files(*[("a", b"")] * 17).code == "bad_form"
    assert client.post_files(("a", portrait), ("b", portrait), request={"request_id": "r"}).code == "bad_form"
    assert client.post_files(("a", portrait), ("b", portrait), request={"explain": True}).code == "bad_form"
    assert client.post_files(("a", portrait), request={"image": {}}).code == "wrong_schema"
    assert client.post_files(("a", portrait), request=[]).code == "wrong_schema"
    assert client.send("POST", "/v1/score", b"--x", content_type="multipart/form-data; boundary=y").status == 422
    assert client.send("POST", "/v1/score", b"x", content_type="multipart/form-data").code == "bad_form"


def test_other_routes_and_types_are_refused(client: Client) -> None:
    """A media type, a route, a method and the name of another host have their codes."""
    other = client.send("POST", "/v1/score", b"x", content_type="image/jpeg")
    assert (other.status, other.code) == (415, "unsupported_media_type")
    assert client.get("/docs").code == "not_found"
    assert client.get("/v1/score").code == "method_not_allowed"
    rebound = client.get("/v1/bundle", host="attacker.example")
    assert (rebound.status, rebound.code) == (403, "forbidden_host")


def test_a_uri_that_is_not_listed_is_a_result(client: Client) -> None:
    """A claim check outside `payloads` has the reason of every other job."""
    answer = client.post_json({**ask(b""), "image": {"uri": "file:///etc/passwd"}})
    assert (answer.status, answer.json()["reason_codes"]) == (422, ["forbidden_uri"])


def test_a_listed_uri_is_read(serve: Serve, tmp_path: Path, portrait: bytes) -> None:
    """A claim check gives the same faces as the bytes."""
    path = tmp_path / "portrait.png"
    path.write_bytes(portrait)
    with serve(others={"payloads": {"schemes": ["file"], "file_roots": [tmp_path]}}) as client:
        by_uri = client.post_json({**ask(b""), "image": {"uri": path.as_uri()}})
        assert by_uri.json()["faces"] == client.post_json(ask(portrait)).json()["faces"]


def test_policies_of_tenants_decide(serve: Serve, root: Path, portrait: bytes) -> None:
    """The file of policies is the one of a stream, and the result names the policy."""
    with serve(policies=root / "deploy/policies.toml") as client:
        answer = client.post_json(ask(portrait, tenant="forum"))
        unknown = client.post_json(ask(portrait, policy_id="gone"))
    assert answer.json()["policy"]["policy_id"] != "default"
    assert unknown.code == "unknown_policy"


def test_the_openapi_document_describes_the_answers(client: Client, portrait: bytes) -> None:
    """The document is valid, its examples too, and real answers validate against its schemas."""
    document = client.get("/openapi.json").json()
    validate(document)
    components = {"components": document["components"]}
    score = document["paths"]["/v1/score"]["post"]
    contents = [score["requestBody"]["content"]["application/json"]]
    contents += [each["content"]["application/json"] for each in score["responses"].values() if "content" in each]
    checked = 0
    for content in contents:
        for example in content.get("examples", {}).values():
            jsonschema.validate(example["value"], content["schema"] | components)
            checked += 1
    assert checked >= 5
    explained = client.post_json(ask(portrait, explain=True))
    answers = (client.post_json(ask(portrait)), client.post_json(b"{"), client.post_files(("a", portrait)), explained)
    for answer in answers:
        schema = score["responses"][str(answer.status)]["content"]["application/json"]["schema"]
        jsonschema.validate(answer.json(), schema | components)


def test_schema_bundle_health_and_metrics(client: Client, opened: scorer.Scorer, portrait: bytes) -> None:
    """Each route has what it promises, and the metrics are those of the list."""
    schemas = client.get("/v1/schema").json()
    jsonschema.validate(client.post_json(ask(portrait)).json(), schemas["result"])
    assert client.get("/v1/bundle").json()["bundle_digest"] == opened.bundle.model.digest
    assert client.get("/health/live").json() == {"ok": True, "reasons": []}
    assert client.get("/health/ready").status == 200
    text = client.get("/metrics").body.decode()
    names = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE unlensed_")}
    assert {name for name in names if not name.endswith("_created")} == set(NAMES)
    assert 'unlensed_images_answered_total{status="scored"}' in text
    (total,) = (line for line in text.splitlines() if line.startswith('unlensed_stage_seconds_count{stage="total"}'))
    assert float(total.split()[1]) >= 1
    assert "unlensed_in_flight_images 0.0" in text
