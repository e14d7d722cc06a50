"""The pure heart on the live engine: every image gets its own answer, whatever lies beside it."""

import io
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ingest.probe import Limits
from ingest.reasons import Reason
from scorer.decide import Policy
from scorer.engine import LocalScorer
from scorer.messages import Decision, ImageSource, RequestedFace, ScoreRequest, ScoreResult, Status
from scorer.score import score_batch

FACE = (180.0, 70.0, 95.0, 110.0)
TINY = (10.0, 10.0, 20.0, 20.0)
OUTSIDE = (900.0, 900.0, 80.0, 80.0)


def encode(picture: Image.Image, kind: str = "JPEG") -> bytes:
    """Return `picture` as encoded bytes."""
    buffer = io.BytesIO()
    picture.save(buffer, kind)
    return buffer.getvalue()


def ask(name: str, data: bytes, *boxes: tuple[float, float, float, float], find: bool = False) -> ScoreRequest:
    """Return a request with inline bytes and given boxes, or one whose faces are to be found."""
    faces = tuple(RequestedFace(face_id=str(number), box=box) for number, box in enumerate(boxes))
    image = ImageSource.model_construct(uri=None, data=data, sha256=None, media_type=None)
    return ScoreRequest(request_id=name, content_id=name, image=image, faces=None if find else faces)


def score(scorer: LocalScorer, *requests: ScoreRequest) -> list[ScoreResult]:
    """Score `requests` and return the results."""
    return list(scorer.score(requests))


def test_portrait_is_found_and_scored(local_scorer: LocalScorer, portrait: bytes) -> None:
    """The astronaut's face is found, scored and decided, and the numbers agree with each other."""
    (result,) = score(local_scorer, ask("a", portrait, find=True))
    assert (result.status, result.face_count) == (Status.SCORED, 1)
    (face,) = result.faces
    assert face.p_value is not None
    assert face.log_likelihood is not None
    assert face.score == pytest.approx(1 - face.p_value)
    assert result.score == face.score
    assert result.decision == face.decision
    assert face.detector_confidence is not None
    assert face.detector_confidence > 0.5


def test_detail_is_measured_where_the_crop_is_not_enlarged(local_scorer: LocalScorer, portrait: bytes) -> None:
    """A face whose window fills the crop carries its share of fine detail; a smaller one carries none."""
    (result,) = score(local_scorer, ask("a", portrait, (130.0, 30.0, 200.0, 200.0), FACE))
    large, small = result.faces
    assert 0 < large.quality["high_band"] < 1
    assert set(small.quality) == {"face_px"}


@pytest.mark.parametrize(
    ("boxes", "status", "decision", "reasons"),
    [
        ([FACE], Status.SCORED, None, []),
        ([TINY], Status.FAILED, None, [Reason.FACE_TOO_SMALL]),
        ([OUTSIDE], Status.FAILED, None, [Reason.BOX_OUTSIDE_IMAGE]),
        ([], Status.NO_FACE, None, [Reason.NO_FACE]),
        ([FACE, TINY], Status.SCORED, Decision.REVIEW, [Reason.FACE_TOO_SMALL]),
        ([FACE, OUTSIDE], Status.SCORED, Decision.REVIEW, [Reason.BOX_OUTSIDE_IMAGE]),
    ],
)
def test_a_face_that_cannot_be_scored_never_passes(
    local_scorer: LocalScorer,
    portrait: bytes,
    boxes: list[tuple[float, float, float, float]],
    status: Status,
    decision: Decision | None,
    reasons: list[Reason],
) -> None:
    """Tiny and misplaced faces carry their reason, and an image that holds one never passes."""
    (result,) = score(local_scorer, ask("a", portrait, *boxes))
    assert result.status is status
    assert list(result.reason_codes) == reasons
    if status is not Status.SCORED:
        assert result.decision is None
    if decision is not None:
        assert result.decision is not None
        assert result.decision.rank >= decision.rank


def noise_jpeg(_: bytes) -> bytes:
    """A sound picture without a face."""
    return encode(Image.fromarray(np.random.default_rng(5).integers(0, 255, (300, 300, 3), dtype=np.uint8)))


HOSTILE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "text": lambda _: b"not an image" * 40,
    "truncated": lambda data: data[: len(data) // 2],
    "damaged": lambda data: data[:3000] + bytes(2000) + data[5000:],
    "noise": noise_jpeg,
}


@settings(deadline=None, max_examples=12)
@given(st.lists(st.sampled_from(sorted(HOSTILE)), max_size=6), st.integers(0, 6))
def test_neighbours_change_no_score(local_scorer: LocalScorer, portrait: bytes, kinds: list[str], place: int) -> None:
    """A portrait's numbers are bit for bit the same alone and among broken images, wherever it stands."""
    (alone,) = score(local_scorer, ask("portrait", portrait, FACE))
    requests = [ask(kind, HOSTILE[kind](portrait), FACE) for kind in kinds]
    requests.insert(place, ask("portrait", portrait, FACE))
    results = score(local_scorer, *requests)
    assert [result.request_id for result in results] == [request.request_id for request in requests]
    together = next(result for result in results if result.request_id == "portrait")
    assert together.faces == alone.faces
    for result in results:
        if result.request_id in {"empty", "text", "truncated", "damaged"}:
            assert result.decision is None
            assert result.reason_codes


def test_several_faces_of_one_image_are_scored_apart(local_scorer: LocalScorer, portrait: bytes) -> None:
    """Two boxes of one image get the numbers that each gets alone; the image takes the worse decision."""
    other = (150.0, 40.0, 150.0, 170.0)
    (both,) = score(local_scorer, ask("both", portrait, FACE, other))
    singles = [score(local_scorer, ask("one", portrait, box))[0].faces[0] for box in (FACE, other)]
    assert [face.log_likelihood for face in both.faces] == [face.log_likelihood for face in singles]
    assert both.score == max(face.score for face in singles if face.score is not None)


def test_each_image_of_a_batch_is_judged_by_its_own_policy(local_scorer: LocalScorer, portrait: bytes) -> None:
    """Two tenants share a batch: equal likelihoods, but each result carries its tenant's policy and decision."""
    policies = {
        "all": Policy(policy_id="all", version="3", flag_false_alarm_rate=1, review_false_alarm_rate=1),
        "large": Policy(policy_id="large", version="8", min_face_px=200),
    }
    requests = [ask(name, portrait, FACE).model_copy(update={"tenant": name}) for name in policies]
    images = [local_scorer.locate(request, portrait) for request in requests]
    flagged, refused = score_batch(
        images, local_scorer.embedder, local_scorer.bundle.model, lambda request: policies[str(request.tenant)]
    )
    assert (flagged.decision, flagged.policy.policy_id, flagged.policy.version) == (Decision.FLAG, "all", "3")
    assert (refused.reason_codes, refused.policy.policy_id) == ((Reason.FACE_TOO_SMALL,), "large")
    assert flagged.result_id != refused.result_id


def test_size_limit_is_answered_not_raised(portrait: bytes, local_scorer: LocalScorer) -> None:
    """An image over the byte limit gets a failed result that states the limit."""
    huge = portrait + bytes(Limits().max_bytes)
    (result,) = score(local_scorer, ask("huge", huge, FACE))
    assert (result.status, result.reason_codes) == (Status.FAILED, (Reason.TOO_MANY_BYTES,))
