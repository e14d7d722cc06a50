"""Why a face got its score: everything that is computed from one image and one bundle.

A face costs 51 passes of the network beside the plain score: 49 covered crops in seven batches, and two changed copies.
"""

import base64
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ingest.clips import ClipSettings
from ingest.device import DeviceUnavailable
from ingest.probe import EncodedFace, Limits
from ingest.reasons import Reason, Unscorable
from ingest.sandbox import Sandbox
from ingest.spec import FaceBox
from scorer.bundle.bundle import Bundle, read_mixture
from scorer.bundle.exif_heads import read_exif_heads
from scorer.decide import Policy, flagged_rank, p_values
from scorer.engines.base import Embedder, FeatureBatch
from scorer.errors import UsageError
from scorer.explain.camera_tags import compare_tags
from scorer.explain.crops import change_copies, choose_region, encode_png, occlude_crop
from scorer.explain.messages import (
    GRID,
    CalibrationPosition,
    Change,
    ChangedCopy,
    Clusters,
    Cost,
    ExplainedResult,
    Explanation,
    MixtureComponent,
    OcclusionMap,
)
from scorer.explain.sentences import list_sentences, state_image
from scorer.locate import LocatedImage, locate_faces
from scorer.meaning import explain_decisions
from scorer.messages import CalibratedBy, FaceResult, ImageFacts, ImageSource, RequestedFace, ScoreRequest, ScoreResult
from scorer.mixture import StackedMixture, component_log_likelihood
from scorer.model import Model
from scorer.observe.printable import printable
from scorer.score import score_batch

BINS = 24
MAX_REGION_PIXELS = 60_000_000  # of the copies; they are made in this process
_LOSSLESS = "image/png"


class _CountingEmbedder:
    """An `Embedder` that counts the crops it is given."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder, self.passes = embedder, 0

    def embed(self, faces: Sequence[EncodedFace]) -> FeatureBatch:
        """See `Embedder`."""
        self.passes += len(faces)
        return self._embedder.embed(faces)


@dataclass(frozen=True, slots=True)
class Explainer:
    """What an explanation needs.

    Attributes:
        sandbox: cuts faces, as for an engine on the CPU.
        embedder: only used by one thread at a time, unless it is thread-safe.

    Raises:
        DeviceUnavailable: the bundle is built for a GPU.
        BundleMismatch: its heads that rank EXIF tags are unusable.
    """

    bundle: Bundle
    sandbox: Sandbox
    embedder: Embedder
    limits: Limits
    clips: ClipSettings

    def __post_init__(self) -> None:
        if self.bundle.manifest.target != "openvino":
            message = "explanations need a bundle for the CPU: export one with --target openvino"
            raise DeviceUnavailable(message)
        read_exif_heads(self.bundle)  # unusable ones are refused before the first request


def explain_image(
    explainer: Explainer, image: LocatedImage, policy: Policy, face_id: str | None = None
) -> ExplainedResult | ScoreResult:
    """Score an image and explain one of its faces; a clip, or an image without a score, has the plain result.

    Args:
        explainer: the bundle and its engine.
        image: as located.
        policy: decides.
        face_id: of the face; None explains the one that is least like photographs.

    Raises:
        UsageError: the image has no face of that name.
        Unscorable: the face was scored, and a decoding process was killed meanwhile.
    """
    started, embedder = time.perf_counter(), _CountingEmbedder(explainer.embedder)
    counted = replace(explainer, embedder=embedder)
    model, image = explainer.bundle.model, replace(image, features={})
    (result,) = score_batch([(image, policy)], embedder, model)
    face = _choose_face(result, face_id)
    if face is None:
        return result
    crop = _cut_crop(counted, image, face)
    occlusion = _map_occlusion(crop, face, embedder, model)
    copies = _score_copies(counted, image, face, policy)
    features = (image.features or {})[face.face_id]
    explanation = Explanation(
        face_id=face.face_id,
        meaning=(*explain_decisions(explainer.bundle.manifest.evaluation, policy), *state_image(result, face)),
        crop_png=f"data:image/png;base64,{base64.b64encode(encode_png(crop)).decode()}",
        calibration=find_position(face, model, policy),
        occlusion=occlusion,
        clusters=find_clusters(features, model.mixture, read_mixture(explainer.bundle).weights),
        camera_tags=compare_tags(explainer.bundle, image, features),
        screenshot_like=is_like_screenshot(result.image),
        copies=copies,
        cost=Cost(engine_passes=embedder.passes, seconds=round(time.perf_counter() - started, 3)),
    )
    fields = {name: getattr(result, name) for name in ScoreResult.model_fields}
    explained = ExplainedResult(**fields, explanation=explanation)
    stated = explanation.model_copy(update={"sentences": tuple(list_sentences(explained))})
    return explained.model_copy(update={"explanation": stated})


def is_like_screenshot(image: ImageFacts) -> bool:
    """Return whether an image is stored without loss and without a camera or a size in its EXIF block."""
    return image.media_type == _LOSSLESS and image.camera is None and image.exif_width is None


def find_position(face: FaceResult, model: Model, policy: Policy) -> CalibrationPosition:
    """Return where a scored face lies among the photographs that its p-value was taken against."""
    likelihood, p_value, by = face.log_likelihood, face.p_value, face.calibrated_by
    if likelihood is None or p_value is None or by is None:
        message = f"face {face.face_id} was not scored"
        raise AssertionError(message)
    values = _compared_with(face, model)
    quarter, three_quarters = np.quantile(values, (0.25, 0.75)).tolist()
    return CalibrationPosition(
        calibrated_by=by,
        faces=len(values),
        at_most=int(np.searchsorted(values, likelihood, side="right")),
        p_value=p_value,
        flag_nats=find_threshold(values, policy.flag_false_alarm_rate),
        review_nats=find_threshold(values, policy.review_false_alarm_rate),
        quarter_nats=quarter,
        three_quarters_nats=three_quarters,
        **count_photographs(values),
    )


def count_photographs(values: NDArray[np.float64]) -> dict[str, tuple[Any, ...]]:
    """Return the histogram of a calibration, log-likelihoods in nats: `edges_nats` and, between them, `counts`."""
    counts, edges = np.histogram(values, BINS)
    return {"edges_nats": tuple(edges.tolist()), "counts": tuple(counts.tolist())}


def find_threshold(values: NDArray[np.float64], rate: float) -> float | None:
    """Return the log-likelihood below which exactly the faces with a p-value of at most `rate` lie; None if none can.

    Args:
        values: [n], those of the calibration in nats, ascending.
        rate: of false alarms.
    """
    rank = flagged_rank(len(values), rate)
    return float(values[rank - 1]) if 0 < rank <= len(values) else None


def _compared_with(face: FaceResult, model: Model) -> NDArray[np.float64]:
    if face.calibrated_by is CalibratedBy.STRATUM and face.stratum:
        return model.calibration.strata[face.stratum]
    return model.calibration.pooled


def _choose_face(result: ScoreResult, face_id: str | None) -> FaceResult | None:
    faces = {face.face_id: face for face in result.faces}
    if face_id is not None and faces and face_id not in faces:
        message = f"{printable(result.content_id)} has no face {printable(face_id)}: its faces are "
        raise UsageError(message + ", ".join(map(printable, faces)))
    scored = [face for face in faces.values() if face.p_value is not None and face_id in {None, face.face_id}]
    if result.clip or not scored:
        return None
    return min(scored, key=lambda face: (face.p_value, face.log_likelihood))


def state_why_unexplained(result: ScoreResult) -> str:
    """Return why an image has no explanation."""
    name = printable(result.content_id)
    if result.clip:
        return f"{name} is a clip; explanations are for images: save a frame of it as an image"
    if not result.faces:
        return f"{name} has no score to explain: {printable(result.detail or result.status)}"
    reasons = ", ".join(dict.fromkeys(reason for face in result.faces for reason in face.reason_codes))
    return f"{name} has nothing to explain: what was asked for has no score ({reasons}); a person must decide"


def _cut_crop(explainer: Explainer, image: LocatedImage, face: FaceResult) -> NDArray[np.uint8]:
    _, encoded = _encode_face(explainer, image, face)
    ((_, crop),) = explainer.sandbox.crop([encoded])
    if isinstance(crop, Unscorable):
        raise crop
    return crop


def _encode_face(explainer: Explainer, image: LocatedImage, face: FaceResult) -> tuple[FaceBox, EncodedFace]:
    box, info = FaceBox(*face.box), image.info
    encoded = info and EncodedFace.around(image.data, info, box, explainer.bundle.model.preprocess)
    if not encoded:
        message = "a face that was scored must lie in its image"
        raise AssertionError(message)
    return box, encoded


def _map_occlusion(crop: NDArray[np.uint8], face: FaceResult, embedder: Embedder, model: Model) -> OcclusionMap:
    faces, rows = occlude_crop(crop), []
    for start in range(0, len(faces), GRID):  # a row a batch: plain images of a service come between them
        embedded = embedder.embed(faces[start : start + GRID])
        if embedded.failures:
            raise next(iter(embedded.failures.values()))
        rows.append(embedded.log_likelihood(model.mixture))
    likelihoods = np.concatenate(rows)
    if not np.isfinite(likelihoods).all():
        raise Unscorable(Reason.NOT_FINITE, "the extractor gave a number that is not finite for a covered crop")
    changes = likelihoods - (face.log_likelihood or 0.0)
    covered = p_values(likelihoods, _compared_with(face, model))
    return OcclusionMap(
        changes_nats=tuple(map(tuple, changes.reshape(GRID, GRID).tolist())),
        p_values=tuple(map(tuple, covered.reshape(GRID, GRID).tolist())),
    )


def find_clusters(
    features_D: NDArray[np.float32], mixture: StackedMixture, weights_K: NDArray[np.floating]
) -> Clusters:
    """Return the component that is most probable for a face, and the one whose centre is nearest."""
    joint = component_log_likelihood(features_D[np.newaxis], mixture)[0]
    distances = 2 * (mixture.constants - joint) / len(features_D)
    probabilities = np.exp(joint - joint.max())
    probabilities /= probabilities.sum()

    def describe(index: int) -> MixtureComponent:
        return MixtureComponent(
            number=index + 1,
            share=min(1.0, float(weights_K[index])),
            probability=min(1.0, float(probabilities[index])),
            squared_distance=float(distances[index]),
        )

    return Clusters(
        components=len(joint),
        most_probable=describe(int(joint.argmax())),
        nearest=describe(int(distances.argmin())),
    )


def _score_copies(
    explainer: Explainer, image: LocatedImage, face: FaceResult, policy: Policy
) -> tuple[ChangedCopy, ...]:
    box, encoded = _encode_face(explainer, image, face)
    region = choose_region(encoded.window, encoded.info)
    if region.width * region.height > MAX_REGION_PIXELS:
        return ()
    pixels = explainer.sandbox.show(image.data, encoded.info, region, max(region.width, region.height))
    moved = FaceBox(box.x - region.left, box.y - region.top, box.width, box.height)
    changes, located = list[Change](), list[LocatedImage]()
    for change, data, place in change_copies(pixels, moved):
        boxes = (RequestedFace(face_id=face.face_id, box=place.as_tuple()),)
        request = ScoreRequest(request_id=change, content_id=change, image=ImageSource(data=data), faces=boxes)
        changes.append(change)
        located.append(
            locate_faces(request, data, explainer.sandbox, explainer.limits, policy.min_face_px, explainer.clips)
        )
    results = score_batch([(each, policy) for each in located], explainer.embedder, explainer.bundle.model)
    return tuple(_describe_copy(change, face, result) for change, result in zip(changes, results, strict=True))


def _describe_copy(change: Change, face: FaceResult, result: ScoreResult) -> ChangedCopy:
    if not result.faces:
        return ChangedCopy(change=change, changes_decision=False, detail=result.detail)
    (copy,) = result.faces
    return ChangedCopy(
        change=change,
        log_likelihood=copy.log_likelihood,
        p_value=copy.p_value,
        decision=copy.decision,
        stratum=copy.stratum,
        calibrated_by=copy.calibrated_by,
        changes_decision=copy.decision is not face.decision,
        detail=result.detail,
    )
