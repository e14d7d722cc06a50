"""Records that are no requests, and what their dead letters may say."""

import base64
import json

import pytest

from scorer.stream.broker import Record
from scorer.stream.codec import InvalidRecord, parse_request

GOOD = {"request_id": "r", "content_id": "c", "image": {"uri": "s3://bucket/a.jpg"}}
SECRET = "c2VjcmV0"  # noqa: S105 - stands for whatever a record may hold
FACE = {"face_id": "0", "box": [0, 0, 10, 10]}
BAD = {
    "no value": (None, "null_value"),
    "not JSON": (b"\xff\xd8\xff", "not_json"),
    "cut short": (b'{"request_id": "r"', "not_json"),
    "no object": (b"[1, 2]", "wrong_schema"),
    "nothing in it": ({}, "wrong_schema"),
    "an unknown field": (GOOD | {"extra": SECRET}, "wrong_schema"),
    "both uri and bytes": (GOOD | {"image": {"uri": "s3://b/k", "bytes": SECRET}}, "wrong_schema"),
    "neither uri nor bytes": (GOOD | {"image": {}}, "wrong_schema"),
    "bytes that are no base64": (GOOD | {"image": {"bytes": SECRET + "*"}}, "wrong_schema"),
    "a NaN in a box": (GOOD | {"faces": [FACE | {"box": [float("nan"), 0, 10, 10]}]}, "wrong_schema"),
    "an infinite box": (GOOD | {"faces": [FACE | {"box": [0, 0, float("inf"), 10]}]}, "wrong_schema"),
    "a box without area": (GOOD | {"faces": [FACE | {"box": [0, 0, 0, 10]}]}, "wrong_schema"),
    "1,000 boxes": (GOOD | {"faces": [FACE | {"face_id": str(n)} for n in range(1000)]}, "wrong_schema"),
    "a face_id twice": (GOOD | {"faces": [FACE, FACE]}, "wrong_schema"),
    "an empty id": (GOOD | {"request_id": ""}, "wrong_schema"),
    "deep nesting": (b"[" * 100_000, "not_json"),
}


def record(value: object) -> Record:
    """Return a record with `value`, as JSON unless it is bytes or None."""
    encoded = value if value is None or isinstance(value, bytes) else json.dumps(value).encode()
    return Record("requests", 0, 0, 0, None, encoded)


@pytest.mark.parametrize(("value", "code"), BAD.values(), ids=BAD)
def test_what_is_no_request_is_refused_with_a_code(value: object, code: str) -> None:
    """Each kind of bad record has its code, and the message repeats nothing of what was sent."""
    with pytest.raises(InvalidRecord) as caught:
        parse_request(record(value), 10**9)
    assert caught.value.code == code
    assert SECRET not in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_a_record_over_the_limit_is_not_parsed() -> None:
    """An oversize record is refused by its size, whatever is in it."""
    with pytest.raises(InvalidRecord) as caught:
        parse_request(record(b"x" * 101), 100)
    assert caught.value.code == "too_large"


def test_a_good_record_is_a_request() -> None:
    """Inline bytes arrive as they were."""
    value = GOOD | {"image": {"bytes": base64.b64encode(b"picture").decode()}, "faces": [FACE]}
    request = parse_request(record(value), 10**9)
    assert request.image.data == b"picture"
    assert request.faces
    assert request.faces[0].box == (0, 0, 10, 10)
