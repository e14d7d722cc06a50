"""Requests and results: what is refused, what is stable, what the schema states."""

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from scorer.decide import Policy
from scorer.messages import (
    Decision,
    PolicyFacts,
    ScoreRequest,
    ScoreResult,
    StatementRule,
    describe_problems,
)
from scorer.result_ids import result_id

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


POLICY = Policy().describe()
WORD = st.text("ab", max_size=2)
RATE = st.sampled_from([0.01, 0.02, 0.05])
INPUTS = st.tuples(
    st.builds(
        request,
        request_id=st.sampled_from("rs"),
        tenant=st.none() | WORD,
        faces=st.none() | st.lists(st.builds(lambda x: FACE | {"box": [x, 2, 30, 40]}, st.integers(0, 2)), max_size=1),
    ),
    st.none() | WORD,
    WORD,
    st.builds(
        PolicyFacts,
        policy_id=WORD,
        version=WORD,
        flag_false_alarm_rate=RATE,
        review_false_alarm_rate=RATE,
        min_face_px=st.integers(1, 3),
    ),
)


@given(INPUTS, INPUTS)
def test_a_replay_gets_the_same_result_id(one: tuple[Any, ...], other: tuple[Any, ...]) -> None:
    """The id depends on all that can change a decision: none differ in these and agree in it."""
    assert (result_id(*one) == result_id(*other)) == (one == other)


CHANGES: dict[str, tuple[dict[str, object], str | None, str, PolicyFacts]] = {
    "request": ({"request_id": "s"}, "i", "d", POLICY),
    "tenant": ({"tenant": "t"}, "i", "d", POLICY),
    "boxes": ({"faces": [FACE]}, "i", "d", POLICY),
    "no boxes": ({"faces": []}, "i", "d", POLICY),
    "image": ({}, None, "d", POLICY),
    "bundle": ({}, "i", "e", POLICY),
    **{
        f"policy's {name}": ({}, "i", "d", POLICY.model_copy(update={name: value}))
        for name, value in {
            "policy_id": "other",
            "version": "2",
            "flag_false_alarm_rate": 0.02,
            "review_false_alarm_rate": 0.06,
            "min_face_px": 65.0,
            "statements": (StatementRule(at_least=Decision.REVIEW),),
        }.items()
    },
}


def test_whatever_can_change_a_decision_changes_the_id() -> None:
    """One change at a time, a policy edited under its name and version among them: as many ids as cases."""
    ids = {result_id(request(**changes), *others) for changes, *others in CHANGES.values()}
    assert len(ids | {result_id(request(), "i", "d", POLICY)}) == len(CHANGES) + 1
    assert set(PolicyFacts.model_fields) == {name.removeprefix("policy's ") for name in CHANGES if "'s " in name}
    assert result_id(request(), "i", "d", POLICY) == result_id(
        request(submitted_at="2026-01-01T00:00:00Z", stream="s"), "i", "d", POLICY
    )


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"image": {"uri": "u", "width": 640}}, "image.width: Extra inputs are not permitted"),
    ],
)
def test_what_is_not_answered_is_refused(fields: dict[str, object], why: str) -> None:
    """A stated size has no effect: a request that has one is refused with a reason."""
    with pytest.raises(ValidationError) as refusal:
        request(**fields)
    assert describe_problems(refusal.value) == why


def test_a_result_without_faces_cannot_carry_a_decision() -> None:
    """A result without a face that says `pass`, or that it is scored, cannot be built."""
    fields = {
        "result_id": result_id(request(), None, "d", POLICY),
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
        "policy": POLICY.model_dump(),
        "timing_ms": {},
        "scored_at": "2026-01-01T00:00:00Z",
        "attributes": {},
    }
    with pytest.raises(ValidationError, match="0 faces and decision pass"):
        ScoreResult.model_validate(fields)
    assert ScoreResult.model_validate(fields | {"decision": None}).decision is None
    with pytest.raises(ValidationError, match="status scored, which its faces contradict"):
        ScoreResult.model_validate(fields | {"decision": None, "status": "scored"})


def test_a_problem_is_told_in_a_short_sentence() -> None:
    """A problem of the object itself has no prefix, and no value makes the sentence long."""
    with pytest.raises(ValidationError) as refusal:
        request(request_id="x" * 4000, faces=[FACE, FACE])
    assert describe_problems(refusal.value).startswith("Value error, request xxx")
    assert describe_problems(refusal.value, "request").startswith("request: Value error, request xxx")
    assert len(describe_problems(refusal.value)) <= 300
