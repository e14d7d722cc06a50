"""Records that are not requests, and the content of their error messages."""

import base64
import json
from collections.abc import Callable

import pytest

from scorer.stream.broker import Record
from scorer.stream.codec import InvalidRecord, parse_request
from scorer.stream.dead_letters import UNREADABLE

GOOD = {"request_id": "r", "content_id": "c", "image": {"uri": "s3://bucket/a.jpg"}}
SECRET = "c2VjcmV0"  # noqa: S105 - any content of a record
FACE = {"face_id": "0", "box": [0, 0, 10, 10]}
BAD = {
    "no value": (None, "null_value"),
    "not JSON": (b"\xff\xd8\xff", "not_json"),
    "cut short": (b'{"request_id": "r"', "not_json"),
    "no object": (b"[1, 2]", "wrong_schema"),
    "nothing in it": ({}, "wrong_schema"),
    "an explanation": (GOOD | {"explain": True}, "wrong_schema"),
    "an unknown field": (GOOD | {"extra": SECRET}, "wrong_schema"),
    "both uri and bytes": (GOOD | {"image": {"uri": "s3://b/k", "bytes": SECRET}}, "wrong_schema"),
    "bytes that are no base64": (GOOD | {"image": {"bytes": SECRET + "*"}}, "wrong_schema"),
    "an infinite box": (GOOD | {"faces": [FACE | {"box": [0, 0, float("inf"), 10]}]}, "wrong_schema"),
    "an empty id": (GOOD | {"request_id": ""}, "wrong_schema"),
    "deep nesting": (b"[" * 100_000, "not_json"),
}


def record(value: object) -> Record:
    """Return a record with `value`, as JSON unless it is bytes or None."""
    encoded = value if value is None or isinstance(value, bytes) else json.dumps(value).encode()
    return Record("requests", 0, 0, 0, None, encoded)


@pytest.mark.parametrize(("value", "code"), BAD.values(), ids=BAD)
def test_records_that_are_no_requests_are_refused_with_a_code(value: object, code: str) -> None:
    """Each kind of bad record has its code, and the message repeats no content."""
    with pytest.raises(InvalidRecord) as caught:
        parse_request(record(value), 10**9, 10**6)
    assert caught.value.code == code
    assert SECRET not in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_a_record_over_the_limit_is_not_parsed() -> None:
    """An oversize record is refused by its size, whatever its content."""
    with pytest.raises(InvalidRecord) as caught:
        parse_request(record(b"x" * 101), 100, 100)
    assert caught.value.code == "too_large"


def test_a_good_record_is_a_request() -> None:
    """Inline bytes are decoded."""
    value = GOOD | {"image": {"bytes": base64.b64encode(b"picture").decode()}, "faces": [FACE]}
    request = parse_request(record(value), 10**9, 10**6)
    assert request.image.data == b"picture"
    assert request.faces
    assert request.faces[0].box == (0, 0, 10, 10)


def test_an_unreadable_record_has_its_own_code() -> None:
    """A record that the client could not parse differs from a record without a value."""
    unreadable = Record("requests", 0, 7, 0, None, None, ((UNREADABLE, b"it has 2000 headers"),))
    with pytest.raises(InvalidRecord, match="it has 2000 headers") as caught:
        parse_request(unreadable, 10**9, 10**6)
    assert caught.value.code == "unreadable"


@pytest.mark.parametrize(
    "value",
    [
        b'{"request_id":"f",' + b",".join(b'"%x":1' % n for n in range(200_000)) + b"}",
        b'{"request_id":"f","faces":[' + b"1," * 1_000_000 + b'1],"content_id":"f"}',
        b'{"request_id":"f","x":' + b"[" * 1_000_000 + b'"',
        b'{"request_id":"f","x":"' + b"y " * 1_000_000 + b'"}',
    ],
    ids=["unknown keys", "numbers", "nesting", "text"],
)
def test_json_apart_from_the_image_is_bounded(value: bytes) -> None:
    """JSON that would take many times its size when parsed is refused before, and the message names the setting."""
    with pytest.raises(InvalidRecord, match=r"stream\.max_json_bytes is 1000000") as caught:
        parse_request(record(value), 10**9, 10**6)
    assert caught.value.code == "too_large"


@pytest.mark.parametrize("encode", [lambda text: text, lambda text: text.replace("/", "\\/")], ids=["plain", "escaped"])
def test_an_image_does_not_count_as_json(encode: Callable[[str], str]) -> None:
    """An image of any size passes, also where its encoder escapes slashes."""
    image = b"\xff" * 3_000_000
    text = json.dumps(GOOD | {"image": {"bytes": "@"}}).replace("@", encode(base64.b64encode(image).decode()))
    assert parse_request(record(text.encode()), 10**9, 1000).image.data == image


def test_many_broken_rules_are_counted_and_not_listed() -> None:
    """The message contains the number of unknown names instead of a long list."""
    value = GOOD | {f"unknown{number}": 1 for number in range(1000)}
    with pytest.raises(InvalidRecord, match="request: 1000 names break rules") as caught:
        parse_request(record(value), 10**9, 10**6)
    assert caught.value.code == "wrong_schema"


@pytest.mark.parametrize("box", [[0, 0, 1.7e308, 1.7e308], [1.7e308] * 4, [0, 0, 2**24 + 2, 5], [-1e12, 0, 9, 9]])
def test_boxes_are_bounded(box: list[float]) -> None:
    """A box larger than any image is refused, with the bound."""
    with pytest.raises(InvalidRecord, match="16777216") as caught:
        parse_request(record(GOOD | {"faces": [FACE | {"box": box}]}), 10**9, 10**6)
    assert caught.value.code == "wrong_schema"


@pytest.mark.parametrize(
    ("attributes", "sentence"),
    [
        ({"x": "y" * 1025}, "at most 1024 characters"),
        ({"x" * 129: "y"}, "at most 128 characters"),
        ({str(n): "" for n in range(65)}, "at most 64 items"),
    ],
)
def test_attributes_are_bounded(attributes: dict[str, str], sentence: str) -> None:
    """Fields that a result repeats fit into a topic of 1 MB."""
    with pytest.raises(InvalidRecord, match=sentence):
        parse_request(record(GOOD | {"attributes": attributes}), 10**9, 10**6)
    with pytest.raises(InvalidRecord, match="the key has 65537 bytes"):
        parse_request(Record("requests", 0, 0, 0, b"k" * 65537, b"{}"), 10**9, 10**6)
