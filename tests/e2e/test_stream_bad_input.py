"""Every kind of bad record through the real command and a real broker: one answer each, and which one."""

import base64
import hashlib
import io
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from PIL import Image

from scorer.messages import result_schema
from tests.live_stream import open_stream

TENANT = "somebody"
POLICIES = f"""
[policies.standard]
version = "1"
[tenants.{TENANT}]
policy = "standard"
"""
MAX_RECORD_BYTES = 200_000
BOX = (180, 70, 95, 110)


def encode(portrait: bytes) -> str:
    """Return the portrait as a small JPEG in base64."""
    buffer = io.BytesIO()
    Image.open(io.BytesIO(portrait)).convert("RGB").save(buffer, "JPEG", quality=80)
    return base64.b64encode(buffer.getvalue()).decode()


def build(picture: str, folder: Path) -> dict[str, tuple[bytes | None, str, str | None]]:
    """Return records by name, each with the status or `dead letter` and the code that must come back."""
    inline = {"bytes": picture}
    outside, gone = folder.parent / "outside.jpg", folder / "gone.jpg"
    outside.write_bytes(base64.b64decode(picture))
    torn = base64.b64encode(base64.b64decode(picture)[:9000]).decode()

    def request(image: dict[str, Any], boxes: list[Any] | None = None, **fields: Any) -> bytes:  # noqa: ANN401 - JSON
        faces = None if boxes is None else [{"face_id": str(n), "box": box} for n, box in enumerate(boxes)]
        plain = {"request_id": "one", "content_id": "one", "tenant": TENANT, "image": image, "faces": faces}
        return json.dumps(plain | fields).encode()

    bad_image, bad_record = "failed", "dead letter"
    return {
        "good": (request(inline), "scored", None),
        "null value": (None, bad_record, "null_value"),
        "empty value": (b"", bad_record, "not_json"),
        "not JSON": (b"\xff\xd8\xff\xe0 not JSON", bad_record, "not_json"),
        "half of a request": (request(inline)[:-100], bad_record, "not_json"),
        "a list": (b"[]", bad_record, "wrong_schema"),
        "no ids": (json.dumps({"image": inline}).encode(), bad_record, "wrong_schema"),
        "unknown field": (request(inline, threshold=0.5), bad_record, "wrong_schema"),
        "uri and bytes": (request({"uri": gone.as_uri(), **inline}), bad_record, "wrong_schema"),
        "neither uri nor bytes": (request({}), bad_record, "wrong_schema"),
        "not base64": (request({"bytes": "*" * 100}), bad_record, "wrong_schema"),
        "oversize record": (request(inline, attributes={"x": "y" * MAX_RECORD_BYTES}), bad_record, "too_large"),
        "unknown tenant": (request(inline, tenant="nobody"), bad_record, "unknown_tenant"),
        "no tenant": (request(inline, tenant=None), bad_record, "unknown_tenant"),
        "unknown policy": (request(inline, policy_id="lenient"), bad_record, "unknown_policy"),
        "box outside the image": (request(inline, [(600, 70, 95, 110)]), bad_image, "box_outside_image"),
        "one box in, one outside": (request(inline, [BOX, (600, 70, 95, 110)]), "scored", "box_outside_image"),
        "box over the edge": (request(inline, [(430, 420, 95, 110)]), "scored", None),
        "small box": (request(inline, [(200, 90, 40, 45)]), bad_image, "face_too_small"),
        "NaN box": (request(inline, [(float("nan"), 70, 95, 110)]), bad_record, "wrong_schema"),
        "infinite box": (request(inline, [(0, 0, float("inf"), 10)]), bad_record, "wrong_schema"),
        "box without area": (request(inline, [(180, 70, 0, 110)]), bad_record, "wrong_schema"),
        "64 boxes": (request(inline, [BOX] * 64), "scored", None),
        "1,000 boxes": (request(inline, [BOX] * 1000), bad_record, "wrong_schema"),
        "no boxes": (request(inline, []), "no_face", "no_face"),
        "same id, first": (request(inline, request_id="twice"), "scored", None),
        "same id, second": (request(inline, request_id="twice"), "scored", None),
        "unreadable uri": (request({"uri": gone.as_uri()}), bad_image, "unreadable"),
        "uri outside the roots": (request({"uri": outside.as_uri()}), bad_image, "forbidden_uri"),
        "uri of a closed scheme": (request({"uri": "s3://bucket/key.jpg"}), bad_image, "forbidden_uri"),
        "uri to an unlisted host": (request({"uri": "https://example.org/a.jpg"}), bad_image, "forbidden_uri"),
        "uri to a private address": (request({"uri": "https://localhost/a.jpg"}), bad_image, "forbidden_uri"),
        "uri to the cloud's metadata": (request({"uri": "https://169.254.169.254/"}), bad_image, "forbidden_uri"),
        "wrong digest": (request(inline | {"sha256": hashlib.sha256().hexdigest()}), bad_image, "digest_mismatch"),
        "torn picture": (request({"bytes": torn}), bad_image, "truncated"),
        "not a picture": (request({"bytes": "aGVsbG8="}), "unsupported", "unsupported_format"),
        "empty picture": (request({"bytes": ""}), bad_image, "empty"),
    }


def verdict(record: Any) -> tuple[str, str | None]:  # noqa: ANN401 - the client has no types
    """Return status and first reason of a result, or `dead letter` and its code."""
    headers = dict(record.headers)
    if "unlensed-error-code" in headers:
        return "dead letter", headers["unlensed-error-code"].decode()
    result = json.loads(record.value)
    return result["status"], next(iter(result["reason_codes"]), None)


@pytest.mark.slow
def test_each_bad_record_gets_exactly_one_answer(portrait: bytes, tmp_path: Path) -> None:
    """Each record gets the expected result or dead letter, and the worker keeps running."""
    roots = tmp_path / "pictures"
    roots.mkdir()
    cases = build(encode(portrait), roots)
    policies = tmp_path / "policies.toml"
    policies.write_text(POLICIES)
    settings = {
        "stream__policies": policies,
        "stream__max_record_bytes": MAX_RECORD_BYTES,
        "payloads__schemes": '["file"]',
        "payloads__file_roots": json.dumps([str(roots)]),
        "payloads__https_hosts": '["localhost", "169.254.169.254"]',
    }
    with open_stream(tmp_path, **settings) as stream:
        answers = stream.ask({name: value for name, (value, _, _) in cases.items()})
    assert {name: [verdict(each) for each in found] for name, found in answers.items()} == {
        name: [(kind, code)] for name, (_, kind, code) in cases.items()
    }
    for name, (value, kind, _) in cases.items():
        (answer,) = answers[name]
        if kind == "dead letter":
            assert answer.value == value, "a dead letter holds the record as it was"
        else:
            result = json.loads(answer.value)
            jsonschema.validate(result, result_schema())
            assert (result["decision"] is not None) == bool(result["faces"])
            assert kind == "scored" or result["decision"] in {None, "review"}
    first, second = (json.loads(answers[f"same id, {which}"][0].value) for which in ("first", "second"))
    assert first["result_id"] == second["result_id"]
    assert first["faces"] == second["faces"]
