"""Requests and results: what is refused, what is stable, what the schema says."""

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from scorer.messages import ScoreRequest, ScoreResult, result_id

REQUEST = {"request_id": "r", "content_id": "c", "image": {"uri": "file:///a.jpg"}}
FACE = {"face_id": "f", "box": [1, 2, 30, 40]}


def request(**changes: object) -> ScoreRequest:
    """Return the sample request with fields replaced, parsed as it would be from the wire."""
    return ScoreRequest.model_validate_json(json.dumps(REQUEST | changes))


def test_bytes_travel_as_base64() -> None:
    """Image bytes are base64 in JSON and plain bytes in the type."""
    image = {"bytes": base64.b64encode(b"\xff\xd8\xff").decode()}
    assert request(image=image).image.data == b"\xff\xd8\xff"


@pytest.mark.parametrize("image", [{}, {"uri": "u", "bytes": "AAAA"}, {"uri": "u", "sha256": "x"}, {"path": "p"}])
def test_an_image_needs_exactly_one_source(image: dict[str, str]) -> None:
    """Neither, both, a malformed digest or an unknown field is refused."""
    with pytest.raises(ValidationError):
        request(image=image)


@pytest.mark.parametrize(
    "faces",
    [
        [FACE, FACE],
        [FACE | {"box": [0, 0, 0, 10]}],
        [FACE | {"box": [0, 0, -5, 10]}],
        [FACE | {"box": [0, 0, 10]}],
        [FACE | {"box": ["NaN", 0, 10, 10]}],
        [FACE | {"face_id": str(number)} for number in range(1000)],
    ],
)
def test_senseless_boxes_are_refused(faces: list[dict[str, object]]) -> None:
    """A repeated id, a box without area, with three numbers or NaN, and a thousand boxes are refused."""
    with pytest.raises(ValidationError):
        request(faces=faces)


@given(st.tuples(*[st.text(max_size=5)] * 5), st.tuples(*[st.text(max_size=5)] * 5))
def test_a_replay_gets_the_same_result_id(one: tuple[str, ...], other: tuple[str, ...]) -> None:
    """The id depends on request, tenant, bundle, policy and its version, and no two differ in these and agree in it."""
    assert (result_id(*one) == result_id(*other)) == (one == other)
    assert result_id(one[0], None, *one[2:]) != result_id(*one)


def test_a_result_without_faces_cannot_carry_a_decision() -> None:
    """A result without a face that says `pass`, or that it is scored, cannot be built."""
    fields = {
        "result_id": result_id("r", None, "d", "default", "1"),
        "request_id": "r",
        "content_id": "c",
        "status": "failed",
        "decision": "pass",
        "reason_codes": ["truncated"],
        "detail": None,
        "score": None,
        "face_count": 0,
        "image": {},
        "faces": (),
        "model": {"bundle_id": "b", "bundle_digest": "d"},
        "policy": {"policy_id": "p", "version": "1", "flag_false_alarm_rate": 0.01, "review_false_alarm_rate": 0.05},
        "timing_ms": {},
        "scored_at": "2026-01-01T00:00:00Z",
        "attributes": {},
    }
    with pytest.raises(ValidationError, match="0 faces and decision pass"):
        ScoreResult.model_validate(fields)
    assert ScoreResult.model_validate(fields | {"decision": None}).decision is None
    with pytest.raises(ValidationError, match="status scored, which its faces contradict"):
        ScoreResult.model_validate(fields | {"decision": None, "status": "scored"})
