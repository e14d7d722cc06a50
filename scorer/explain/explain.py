"""Why a face got its score: everything that is computed from one image and one bundle.

A face costs 51 passes of the network beside the plain score: 49 covered crops in one batch, and two changed copies.
"""

import base64
import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ingest.device import DeviceUnavailable
from ingest.probe import EncodedFace
from ingest.reasons import Reason, Unscorable
from ingest.spec import FaceBox
from scorer.bundle.bundle import read_mixture
from scorer.decide import Policy, p_values
from scorer.engines.base import Embedder, FeatureBatch
from scorer.errors import NothingToExplain, UsageError
from scorer.explain.crops import change_copies, choose_region, encode_png, occlude_crop
from scorer.explain.messages import (
    GRID,
    CalibrationPosition,
    Change,
    ChangedCopy,
    Clusters,
    Cost,
    Explanation,
    MixtureComponent,
    OcclusionMap,
)
from scorer.local_scorer import LocalScorer
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


def explain_image(scorer: LocalScorer, request: ScoreRequest, data: bytes, face_id: str | None = None) -> Explanation:
    """Score an image and explain one of its faces; only one thread may use `scorer` meanwhile.

    Args:
        scorer: an open bundle, with an engine on the CPU.
        request: of the image.
        data: the encoded image.
        face_id: of the face; None explains the one that is least like photographs.

    Raises:
        NothingToExplain: the image, or the face, has no score; or it is a clip.
        UsageError: the image has no face of that name.
        DeviceUnavailable: the bundle is built for a GPU.
    """
    if scorer.bundle.manifest.target != "openvino":
        message = "explanations need a bundle for the CPU: export one with --target openvino"
        raise DeviceUnavailable(message)
    started, embedder = time.perf_counter(), _CountingEmbedder(scorer.embedder)
    model, policy = scorer.bundle.model, scorer.policy
    image = replace(scorer.locate(request, data), features={})
    (result,) = score_batch([(image, policy)], embedder, model)
    face = _choose_face(image, result, face_id)
    try:
        crop = _cut_crop(scorer, image, face)
        occlusion = _map_occlusion(crop, face, embedder, model)
        copies = _score_copies(scorer, image, face, embedder)
    except Unscorable as failure:  # the face was scored: a decoding process was killed meanwhile
        message = f"{printable(request.content_id)} cannot be explained now ({failure.detail}): run it again"
        raise NothingToExplain(message) from failure
    return Explanation(
        face_id=face.face_id,
        result=result,
        meaning=tuple(explain_decisions(scorer.bundle.manifest.evaluation, policy)),
        crop_png=f"data:image/png;base64,{base64.b64encode(encode_png(crop)).decode()}",
        calibration=find_position(face, model, policy),
        occlusion=occlusion,
        clusters=find_clusters(
            (image.features or {})[face.face_id], model.mixture, read_mixture(scorer.bundle).weights
        ),
        screenshot_like=is_like_screenshot(result.image),
        copies=copies,
        cost=Cost(engine_passes=embedder.passes, seconds=round(time.perf_counter() - started, 3)),
    )


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
    counts, edges = np.histogram(values, BINS)
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
        edges_nats=tuple(edges.tolist()),
        counts=tuple(counts.tolist()),
    )


def find_threshold(values: NDArray[np.float64], rate: float) -> float | None:
    """Return the log-likelihood below which exactly the faces with a p-value of at most `rate` lie; None if none can.

    Args:
        values: [n], those of the calibration in nats, ascending.
        rate: of false alarms.
    """
    possible = (1 + np.arange(len(values) + 1)) / (len(values) + 1)
    allowed = int(np.searchsorted(possible, rate, side="right")) - 1
    return float(values[allowed]) if 0 <= allowed < len(values) else None


def _compared_with(face: FaceResult, model: Model) -> NDArray[np.float64]:
    if face.calibrated_by is CalibratedBy.STRATUM and face.stratum:
        return model.calibration.strata[face.stratum]
    return model.calibration.pooled


def _choose_face(image: LocatedImage, result: ScoreResult, face_id: str | None) -> FaceResult:
    name = printable(result.content_id)
    if image.clip:
        message = f"{name} is a clip; explanations are for images: save a frame of it as an image"
        raise NothingToExplain(message)
    if not result.faces:
        message = f"{name} has no score to explain: {printable(result.detail or result.status)}"
        raise NothingToExplain(message)
    faces = {face.face_id: face for face in result.faces}
    if face_id is not None and face_id not in faces:
        message = f"{name} has no face {printable(face_id)}: its faces are {', '.join(map(printable, faces))}"
        raise UsageError(message)
    scored = [face for face in faces.values() if face.p_value is not None and face_id in {None, face.face_id}]
    if not scored:
        which = "its faces have" if face_id is None else f"face {printable(face_id)} has"
        reasons = dict.fromkeys(reason for face in faces.values() for reason in face.reason_codes)
        message = f"{name} has nothing to explain: {which} no score ({', '.join(reasons)}); a person must decide"
        raise NothingToExplain(message)
    return min(scored, key=lambda face: (face.p_value, face.log_likelihood))


def _cut_crop(scorer: LocalScorer, image: LocatedImage, face: FaceResult) -> NDArray[np.uint8]:
    _, encoded = _encode_face(scorer, image, face)
    ((_, crop),) = scorer.sandbox.crop([encoded])
    if isinstance(crop, Unscorable):
        raise crop
    return crop


def _encode_face(scorer: LocalScorer, image: LocatedImage, face: FaceResult) -> tuple[FaceBox, EncodedFace]:
    box, info = FaceBox(*face.box), image.info
    encoded = info and EncodedFace.around(image.data, info, box, scorer.bundle.model.preprocess)
    if not encoded:
        message = "a face that was scored must lie in its image"
        raise AssertionError(message)
    return box, encoded


def _map_occlusion(crop: NDArray[np.uint8], face: FaceResult, embedder: Embedder, model: Model) -> OcclusionMap:
    embedded = embedder.embed(occlude_crop(crop))
    if embedded.failures:
        raise next(iter(embedded.failures.values()))
    likelihoods = embedded.log_likelihood(model.mixture)
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
    scorer: LocalScorer, image: LocatedImage, face: FaceResult, embedder: Embedder
) -> tuple[ChangedCopy, ...]:
    box, encoded = _encode_face(scorer, image, face)
    region = choose_region(encoded.window, encoded.info)
    if region.width * region.height > MAX_REGION_PIXELS:
        return ()
    pixels = scorer.sandbox.show(image.data, encoded.info, region, max(region.width, region.height))
    moved = FaceBox(box.x - region.left, box.y - region.top, box.width, box.height)
    changes, located = list[Change](), list[LocatedImage]()
    for change, data, place in change_copies(pixels, moved):
        boxes = (RequestedFace(face_id=face.face_id, box=place.as_tuple()),)
        request = ScoreRequest(request_id=change, content_id=change, image=ImageSource(data=data), faces=boxes)
        settings = scorer.settings
        changes.append(change)
        located.append(
            locate_faces(request, data, scorer.sandbox, settings.limits, settings.policy.min_face_px, settings.video)
        )
    results = score_batch([(each, scorer.policy) for each in located], embedder, scorer.bundle.model)
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
