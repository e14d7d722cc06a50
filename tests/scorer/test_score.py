"""Scoring with the live engine: the result of an image does not depend on its batch."""

import dataclasses
import io
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ingest.probe import EncodedFace, ImageInfo, Limits
from ingest.reasons import Reason
from ingest.spec import MIN_VISIBLE_SHARE, FaceBox, PreprocessSpec
from scorer.decide import Calibration, Policy
from scorer.local_scorer import LocalScorer
from scorer.messages import CalibratedBy, Decision, ImageSource, RequestedFace, ScoreRequest, ScoreResult, Status
from scorer.policies import read_policies
from scorer.score import score_batch
from scorer.settings import Settings
from scorer.strata import Stratum

FACE = (180.0, 70.0, 95.0, 110.0)
TINY = (10.0, 10.0, 20.0, 20.0)
OUTSIDE = (900.0, 900.0, 80.0, 80.0)
BESIDE = (520.0, 100.0, 100.0, 100.0)  # its crop window reaches into the picture, the box does not
CUT_OFF = (-160.0, 100.0, 200.0, 200.0)


def encode(picture: Image.Image, kind: str = "JPEG") -> bytes:
    """Return `picture` as encoded bytes."""
    buffer = io.BytesIO()
    picture.save(buffer, kind)
    return buffer.getvalue()


def ask(name: str, data: bytes, *boxes: tuple[float, float, float, float], find: bool = False) -> ScoreRequest:
    """Return a request with inline bytes and given boxes, or one whose faces are to be found."""
    faces = tuple(RequestedFace(face_id=str(number), box=box) for number, box in enumerate(boxes))
    image = ImageSource.model_construct(uri=None, data=data, sha256=None)
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


def test_a_face_is_scored_against_its_stratum(local_scorer: LocalScorer, portrait: bytes) -> None:
    """The same face has the same log-likelihood, and the p-value of the photographs of its stratum."""
    located = local_scorer.locate(ask("a", portrait, FACE), portrait)
    held_out = local_scorer.bundle.model.calibration.pooled
    model = dataclasses.replace(local_scorer.bundle.model, calibration=Calibration(held_out))
    (pooled,) = score_batch([(located, local_scorer.policy)], local_scorer.embedder, model)
    (face,) = pooled.faces
    assert (face.stratum, face.calibrated_by) == (Stratum.SMALL_NO_QUALITY, CalibratedBy.POOLED)
    assert face.log_likelihood is not None
    values = np.array([face.log_likelihood - 1, face.log_likelihood, face.log_likelihood + 1])
    strata = Calibration(held_out, {Stratum.SMALL_NO_QUALITY: values})
    (of_stratum,) = score_batch(
        [(located, local_scorer.policy)], local_scorer.embedder, dataclasses.replace(model, calibration=strata)
    )
    assert (of_stratum.faces[0].p_value, of_stratum.faces[0].calibrated_by) == (0.75, CalibratedBy.STRATUM)
    assert of_stratum.faces[0].log_likelihood == face.log_likelihood


def test_marks_of_the_headers_stand_in_the_result(local_scorer: LocalScorer, portrait: bytes) -> None:
    """Camera, stated size, quality and marks are in the result; what EXIF states changes no number of a face."""
    picture = Image.open(io.BytesIO(portrait)).convert("RGB")
    exif = Image.Exif()
    exif[0x010F], exif[0x0110] = "Canon", "EOS 90D"
    exif[0x8769] = {0xA002: 6960, 0xA003: 4640}
    forged, plain = io.BytesIO(), io.BytesIO()
    picture.save(forged, "JPEG", quality=40, exif=exif)
    picture.save(plain, "JPEG", quality=40)
    stated, bare = score(local_scorer, ask("a", forged.getvalue(), FACE), ask("a", plain.getvalue(), FACE))
    assert stated.image.model_dump(exclude={"sha256"}) == {
        "width": 512,
        "height": 512,
        "media_type": "image/jpeg",
        "camera": "Canon EOS 90D",
        "jpeg_quality": 40,
        "exif_width": 6960,
        "exif_height": 4640,
        "resampled": ("thumbnail", "low_quality", "resized"),
    }
    assert (bare.image.camera, bare.image.exif_width, bare.image.jpeg_quality) == (None, None, 40)
    assert stated.faces == bare.faces
    assert stated.faces[0].stratum is Stratum.SMALL_LOW_QUALITY


@pytest.mark.parametrize(
    ("boxes", "status", "decision", "reasons"),
    [
        ([FACE], Status.SCORED, None, []),
        ([TINY], Status.FAILED, Decision.REVIEW, [Reason.FACE_TOO_SMALL]),
        ([OUTSIDE], Status.FAILED, Decision.REVIEW, [Reason.BOX_OUTSIDE_IMAGE]),
        ([BESIDE], Status.FAILED, Decision.REVIEW, [Reason.BOX_OUTSIDE_IMAGE]),
        ([CUT_OFF], Status.FAILED, Decision.REVIEW, [Reason.FACE_CUT_OFF]),
        ([CUT_OFF, TINY], Status.FAILED, Decision.REVIEW, [Reason.FACE_CUT_OFF, Reason.FACE_TOO_SMALL]),
        ([], Status.NO_FACE, None, [Reason.NO_FACE]),
        ([FACE, TINY], Status.SCORED, Decision.REVIEW, [Reason.FACE_TOO_SMALL]),
        ([FACE, OUTSIDE], Status.SCORED, Decision.REVIEW, [Reason.BOX_OUTSIDE_IMAGE]),
        ([FACE, CUT_OFF], Status.SCORED, Decision.REVIEW, [Reason.FACE_CUT_OFF]),
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
    """Tiny, cut and misplaced faces have their reason; an image that contains one never passes."""
    (result,) = score(local_scorer, ask("a", portrait, *boxes))
    assert result.status is status
    assert list(result.reason_codes) == reasons
    if status is not Status.SCORED:
        assert result.decision is decision
        assert result.score is None
    elif decision is not None:
        assert result.decision is not None
        assert result.decision.rank >= decision.rank


@settings(deadline=None, max_examples=20)
@given(left=st.floats(-150, 550), top=st.floats(-150, 550), side=st.floats(64, 300))
def test_face_px_counts_pixels_of_the_picture(
    local_scorer: LocalScorer, portrait: bytes, left: float, top: float, side: float
) -> None:
    """The side is that of the visible part; a visible share that is too small gives no score."""
    (result,) = score(local_scorer, ask("a", portrait, (left, top, side, side)))
    (face,) = result.faces
    across, down = (max(0.0, min(512.0, place + side) - max(0.0, place)) for place in (left, top))
    assert face.quality["face_px"] == pytest.approx(min(across, down), abs=0.06)
    if across * down < (MIN_VISIBLE_SHARE - 0.001) * side**2:
        assert face.p_value is None
        assert set(face.reason_codes) <= {Reason.FACE_CUT_OFF, Reason.BOX_OUTSIDE_IMAGE}


def test_what_nobody_foresaw_of_one_face_is_its_answer(
    local_scorer: LocalScorer, portrait: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An exception at one face is that face's reason and review; the other face and the other image are scored."""
    around = EncodedFace.around

    def overflow(data: bytes, info: ImageInfo, box: FaceBox, spec: PreprocessSpec) -> EncodedFace | None:
        if box.as_tuple() == OUTSIDE:
            message = "cannot convert float infinity to integer"
            raise OverflowError(message)
        return around(data, info, box, spec)

    monkeypatch.setattr(EncodedFace, "around", overflow)
    first, second = score(local_scorer, ask("a", portrait, FACE, OUTSIDE), ask("b", portrait, FACE))
    assert first.faces[1].reason_codes == (Reason.DEFECT,)
    assert first.faces[1].decision is Decision.REVIEW
    assert first.detail == "the face could not be prepared (OverflowError); please report it"
    assert first.faces[0].score == second.faces[0].score is not None


@pytest.mark.parametrize("far", [1.7e308, 2.0**24 + 2, float("nan"), float("inf")])
def test_boxes_that_no_image_holds_are_refused(far: float) -> None:
    """A request takes no box whose numbers could not be added up."""
    for box in ((0.0, 0.0, far, far), (far, far, 9.0, 9.0), (-far, 0.0, far, 9.0)):
        with pytest.raises(ValueError, match=r"16777216|finite"):
            RequestedFace(face_id="0", box=box)
        with pytest.raises(ValueError, match=r"16777216|finite"):
            FaceBox(*box)


def test_several_faces_of_one_image_are_scored_apart(local_scorer: LocalScorer, portrait: bytes) -> None:
    """Two boxes of one image get the same numbers as each alone; the image gets the worse decision."""
    other = (150.0, 40.0, 150.0, 170.0)
    (both,) = score(local_scorer, ask("both", portrait, FACE, other))
    singles = [score(local_scorer, ask("one", portrait, box))[0].faces[0] for box in (FACE, other)]
    assert [face.log_likelihood for face in both.faces] == [face.log_likelihood for face in singles]
    assert both.score == max(face.score for face in singles if face.score is not None)


def test_each_image_of_a_batch_is_judged_by_its_own_policy(local_scorer: LocalScorer, portrait: bytes) -> None:
    """Two tenants share a batch: equal likelihoods, but each result has its tenant's policy and decision."""
    policies = {
        "all": Policy(policy_id="all", version="3", flag_false_alarm_rate=1, review_false_alarm_rate=1),
        "large": Policy(policy_id="large", version="8", min_face_px=200),
    }
    requests = [ask(name, portrait, FACE).model_copy(update={"tenant": name}) for name in policies]
    images = [(local_scorer.locate(request, portrait), policies[str(request.tenant)]) for request in requests]
    flagged, refused = score_batch(images, local_scorer.embedder, local_scorer.bundle.model)
    assert (flagged.decision, flagged.policy.policy_id, flagged.policy.version) == (Decision.FLAG, "all", "3")
    assert (refused.reason_codes, refused.policy.policy_id) == ((Reason.FACE_TOO_SMALL,), "large")
    assert flagged.result_id != refused.result_id


@pytest.mark.parametrize(
    ("side", "standard", "avatars"),
    [
        (512, Status.SCORED, Status.SCORED),  # the face is 91 px wide
        (300, Status.FAILED, Status.SCORED),  # 53 px
        (180, Status.FAILED, Status.FAILED),  # 32 px
    ],
)
def test_the_shipped_policies_decide_which_avatars_are_scored(
    local_scorer: LocalScorer, root: Path, portrait: bytes, side: int, standard: Status, avatars: Status
) -> None:
    """A portrait reduced to an avatar is scored down to the policy's minimum; a smaller face goes to review."""
    policies = read_policies(root / "deploy" / "policies.toml", local_scorer.bundle.manifest.calibration).policies
    avatar = encode(Image.open(io.BytesIO(portrait)).convert("RGB").resize((side, side), Image.Resampling.LANCZOS))
    for name, expected in (("standard", standard), ("avatars", avatars)):
        scorer = LocalScorer(Settings(bundle=local_scorer.bundle.folder, threads=1, policy=policies[name]))
        (result,) = score(scorer, ask("a", avatar, find=True))
        assert (result.status, result.face_count) == (expected, 1)
        if expected is Status.FAILED:
            assert (result.decision, result.reason_codes) == (Decision.REVIEW, (Reason.FACE_TOO_SMALL,))
            assert f"the policy scores from {policies[name].min_face_px:g} px" in str(result.detail)


def test_a_strip_of_a_face_is_not_scored(local_scorer: LocalScorer, portrait: bytes) -> None:
    """Eyes only, as pages crop them: even if the detector finds a face, it gets no score."""
    eyes = Image.open(io.BytesIO(portrait)).convert("RGB").resize((1536, 1536), Image.Resampling.LANCZOS)
    strip = eyes.crop((510, 285, 870, 385)).resize((240, 66), Image.Resampling.LANCZOS)
    (result,) = score(local_scorer, ask("a", encode(strip), find=True))
    assert result.score is None
    assert result.reason_codes in {(Reason.FACE_CUT_OFF,), (Reason.NO_FACE,)}


def test_a_found_face_that_is_cut_off_is_not_scored(local_scorer: LocalScorer, portrait: bytes) -> None:
    """A face that the lower edge cuts below the nose is found, reported and sent to review."""
    head = Image.open(io.BytesIO(portrait)).convert("RGB").crop((0, 0, 512, 128)).resize((1536, 384))
    (result,) = score(local_scorer, ask("a", encode(head, "PNG"), find=True))
    assert (result.status, result.decision, result.score) == (Status.FAILED, Decision.REVIEW, None)
    assert result.reason_codes == (Reason.FACE_CUT_OFF,)
    (face,) = result.faces
    assert face.quality["face_px"] == pytest.approx(384 - face.box[1], abs=0.1)


def test_a_result_repeats_when_its_request_was_submitted(local_scorer: LocalScorer, portrait: bytes) -> None:
    """A consumer can measure the time since the submission; a request that does not state it gets null."""
    silent = ask("a", portrait, TINY)
    stated = silent.model_copy(update={"submitted_at": datetime(2026, 1, 1, tzinfo=UTC)})
    first, second = score(local_scorer, silent, stated)
    assert (first.submitted_at, second.submitted_at) == (None, stated.submitted_at)
    assert second.scored_at > stated.submitted_at


def test_size_limit_is_answered_not_raised(portrait: bytes, local_scorer: LocalScorer) -> None:
    """An image over the byte limit gets a failed result that states the limit."""
    huge = portrait + bytes(Limits().max_bytes)
    (result,) = score(local_scorer, ask("huge", huge, FACE))
    assert (result.status, result.reason_codes) == (Status.FAILED, (Reason.TOO_MANY_BYTES,))
