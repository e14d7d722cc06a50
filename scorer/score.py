"""Located images in, results out: no I/O, and the same code for files, archives and streams."""

import logging
import time
from collections.abc import Sequence
from datetime import UTC, datetime

import numpy as np

from ingest.image_metadata import ImageMetadata
from ingest.probe import EncodedFace, ImageInfo
from ingest.reasons import UNSUPPORTED, Reason, Unscorable
from ingest.resampling import find_marks
from ingest.spec import MIN_VISIBLE_SHARE
from scorer.decide import Policy, decide_face, find_required
from scorer.engines.base import Embedder, FeatureBatch
from scorer.locate import LocatedFace, LocatedImage
from scorer.messages import (
    CalibratedBy,
    FaceResult,
    ImageFacts,
    ModelFacts,
    ScoreResult,
    Status,
)
from scorer.model import Model
from scorer.result_ids import result_id
from scorer.strata import Stratum, stratum_of
from scorer.tracks import UNCALIBRATED, Score, cap_decision, describe_clip, find_median, group_tracks
from scorer.version import VERSION

log = logging.getLogger(__name__)


def score_batch(images: Sequence[tuple[LocatedImage, Policy]], embedder: Embedder, model: Model) -> list[ScoreResult]:
    """Score every face of `images` in one batch and return one result per image, in order.

    Each image comes with the policy that decides it, so that one batch serves many tenants. A face that cannot be cut,
    decoded or embedded gets its reason and does not change the numbers of the other faces in the batch.
    """
    started = time.perf_counter()
    outcomes: dict[tuple[int, int], Score | Unscorable] = {}
    positions: list[tuple[int, int]] = []
    encoded: list[EncodedFace] = []
    for image_number, (image, policy) in enumerate(images):
        for face_number, face in enumerate(image.faces):
            position = (image_number, face_number)
            prepared = _prepare_safely(image, face, model, policy)
            if isinstance(prepared, Unscorable):
                outcomes[position] = prepared
            else:
                positions.append(position)
                encoded.append(prepared)
    embedded = embedder.embed(encoded)
    embed_ms = (time.perf_counter() - started) * 1000
    likelihoods = embedded.log_likelihood(model.mixture)
    strata = [_stratum(images[number][0], images[number][0].faces[index]) for number, index in positions]
    for row, (position, value, (p_value, by)) in enumerate(
        zip(positions, likelihoods, model.calibration.p_values(likelihoods, strata), strict=True)
    ):
        if row in embedded.failures:
            outcomes[position] = embedded.failures[row]
        elif not np.isfinite(value):
            outcomes[position] = Unscorable(Reason.NOT_FINITE, "the extractor gave a number that is not finite")
        else:
            outcomes[position] = Score(float(value), p_value, by, float(embedded.high_band[row]))
    _keep_features(
        images, [(row, each) for row, each in enumerate(positions) if isinstance(outcomes[each], Score)], embedded
    )
    return [
        _result(image, [outcomes[number, index] for index in range(len(image.faces))], model, policy, embed_ms)
        for number, (image, policy) in enumerate(images)
    ]


def _keep_features(
    images: Sequence[tuple[LocatedImage, Policy]], scored: Sequence[tuple[int, tuple[int, int]]], embedded: FeatureBatch
) -> None:
    """Copy the features of scored faces, (row of the batch, position), to the images that keep them."""
    if all(image.features is None for image, _ in images):
        return
    features = embedded.on_host().features
    for row, (image_number, face_number) in scored:
        image = images[image_number][0]
        if image.features is not None and image.clip is None:
            image.features[image.faces[face_number].face_id] = features[row].copy()


def _prepare_safely(image: LocatedImage, face: LocatedFace, model: Model, policy: Policy) -> EncodedFace | Unscorable:
    """Turn an unexpected exception into the failure of its face instead of the end of the process."""
    try:
        return _prepare(image, face, model, policy)
    except Exception as error:
        log.exception("a face could not be prepared; please report it")
        return Unscorable(Reason.DEFECT, f"the face could not be prepared ({type(error).__name__}); please report it")


def _prepare(image: LocatedImage, face: LocatedFace, model: Model, policy: Policy) -> EncodedFace | Unscorable:
    width, height = _size_around(image, face)
    encoded = (
        face.shot.crop if face.shot else EncodedFace.around(image.data, _probed(image), face.box, model.preprocess)
    )
    visible = face.box.clip(width, height)
    if encoded is None or visible is None:
        return Unscorable(
            Reason.BOX_OUTSIDE_IMAGE,
            f"box {face.box.as_tuple()} misses the {width}x{height} image",
        )
    if face.box.is_cut_off(width, height):
        return Unscorable(
            Reason.FACE_CUT_OFF,
            f"{face.box.visible_share(width, height):.0%} of the face's box lies in the image, "
            f"faces are scored from {MIN_VISIBLE_SHARE:.0%}",
        )
    if visible.short_side < policy.min_face_px:
        return Unscorable(
            Reason.FACE_TOO_SMALL,
            f"the face's short side is {visible.short_side:.0f} px, the policy scores from {policy.min_face_px:g} px",
        )
    return encoded


def _stratum(image: LocatedImage, face: LocatedFace) -> Stratum:
    return stratum_of(_visible_px(image, face), image.metadata.jpeg_quality, _probed(image).media_type)


def _size_around(image: LocatedImage, face: LocatedFace) -> tuple[int, int]:
    """Return the upright size of the image or frame that contains a face."""
    info = face.shot or _probed(image)
    return info.width, info.height


def _visible_px(image: LocatedImage, face: LocatedFace) -> float:
    """Return the short side of the part of the box that lies in the image, in pixels; 0 if none does."""
    visible = face.box.clip(*_size_around(image, face))
    return round(visible.short_side, 1) if visible else 0.0


def _probed(image: LocatedImage) -> ImageInfo:
    if image.info is None:
        message = "a located image that has faces must have been probed"
        raise AssertionError(message)
    return image.info


def _result(
    image: LocatedImage, outcomes: list[Score | Unscorable], model: Model, policy: Policy, embed_ms: float
) -> ScoreResult:
    info, facts = image.info, policy.describe()
    rows = list(zip(image.faces, outcomes, strict=True))
    if image.clip:
        tracks = group_tracks(rows)
        rows = [find_median(track) for track in tracks]
    faces = tuple(_face_result(image, face, outcome, policy) for face, outcome in rows)
    causes = [outcome for _, outcome in rows if isinstance(outcome, Unscorable)]
    scores = [face.score for face in faces if face.score is not None]
    if not faces:
        causes = [image.failure or Unscorable(Reason.NO_FACE, "no face was found")]
    elif any(UNCALIBRATED.reason in face.reason_codes for face in faces):
        causes.append(UNCALIBRATED)
    decision = max((face.decision for face in faces), key=lambda decision: decision.rank, default=None)
    if decision and (required := find_required(image.statements or (), policy)):
        at_least, stated = required
        decision = max(decision, at_least, key=lambda decision: decision.rank)
        why = f"the image states that it was generated ({stated.statement}; {stated.source}, {stated.validity})"
        causes.append(Unscorable(Reason.STATED_GENERATED, f"{why}, and the policy decides at least {at_least}"))
    return ScoreResult(
        version=VERSION,
        result_id=result_id(
            image.request,
            info.sha256 if info else None,
            model.digest,
            facts,
            image.clip.settings if image.clip else None,
            image.statements,
        ),
        request_id=image.request.request_id,
        content_id=image.request.content_id,
        status=Status.SCORED if scores else _status(causes[0]),
        decision=decision,
        reason_codes=tuple(dict.fromkeys(cause.reason for cause in causes)),
        detail=causes[0].detail if causes else None,
        score=max(scores) if scores else None,
        face_count=len(faces),
        image=ImageFacts() if info is None else _describe_image(info, image.metadata, faces),
        faces=faces,
        model=ModelFacts(bundle_id=model.bundle_id, bundle_digest=model.digest),
        policy=facts,
        timing_ms={"locate": round(image.locate_ms, 3), "embed_batch": round(embed_ms, 3)},
        submitted_at=image.request.submitted_at,
        scored_at=datetime.now(UTC),
        attributes=image.request.attributes,
        tenant=image.request.tenant,
        provenance=image.statements,
        **(describe_clip(image.clip, tracks) if image.clip else {}),
    )


def _describe_image(info: ImageInfo, metadata: ImageMetadata, faces: tuple[FaceResult, ...]) -> ImageFacts:
    high_bands = [face.quality["high_band"] for face in faces if "high_band" in face.quality]
    return ImageFacts(
        sha256=info.sha256,
        width=info.width,
        height=info.height,
        media_type=info.media_type,
        camera=metadata.camera or None,
        jpeg_quality=metadata.jpeg_quality,
        exif_width=metadata.exif_width,
        exif_height=metadata.exif_height,
        resampled=find_marks(info.width, info.height, metadata, high_bands),
    )


def _face_result(image: LocatedImage, face: LocatedFace, outcome: Score | Unscorable, policy: Policy) -> FaceResult:
    scored = outcome if isinstance(outcome, Score) else None
    p_value = scored.p_value if scored else None
    decision, reasons = decide_face(p_value, policy), (outcome.reason,) if isinstance(outcome, Unscorable) else ()
    stratum = _stratum(image, face)
    if scored and image.clip and not (stratum.is_video and scored.calibrated_by is CalibratedBy.STRATUM):
        decision, reasons = cap_decision(decision), (UNCALIBRATED.reason,)
    return FaceResult(
        face_id=face.face_id,
        box=face.box.as_tuple(),
        detector_confidence=face.confidence,
        log_likelihood=scored.log_likelihood if scored else None,
        p_value=p_value,
        score=None if p_value is None else 1 - p_value,
        decision=decision,
        reason_codes=reasons,
        quality=_measure_quality(image, face, scored),
        stratum=stratum,
        calibrated_by=scored.calibrated_by if scored else None,
    )


def _measure_quality(image: LocatedImage, face: LocatedFace, scored: Score | None) -> dict[str, float]:
    quality = {"face_px": _visible_px(image, face)}
    enlarged = face.shot and face.shot.window_px < face.shot.crop.info.width  # the engine sees only what was cut
    if scored and np.isfinite(scored.high_band) and not enlarged:
        quality["high_band"] = round(scored.high_band, 4)
    return quality


def _status(failure: Unscorable) -> Status:
    if failure.reason is Reason.NO_FACE:
        return Status.NO_FACE
    return Status.UNSUPPORTED if failure.reason in UNSUPPORTED else Status.FAILED
