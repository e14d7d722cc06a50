"""The first half of scoring, one image at a time: probe the bytes, then find or check the faces."""

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ingest.image_metadata import ImageMetadata, read_image_metadata
from ingest.probe import ImageInfo, Limits, probe_image
from ingest.reasons import Unscorable
from ingest.spec import FaceBox
from scorer.messages import ScoreRequest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ingest.detect import Detection, FaceDetector


NO_METADATA = ImageMetadata()


@dataclass(frozen=True, slots=True)
class LocatedFace:
    """A face to score; `confidence` is None when the request contains the box."""

    face_id: str
    box: FaceBox
    confidence: float | None


@dataclass(frozen=True, slots=True)
class LocatedImage:
    """A request after probing: either `info` and `faces`, or the `failure` that stopped it.

    `metadata` is what the image's headers state. `features` is None unless the job keeps features: scoring then adds
    [D] float32 for each scored face by `face_id`.
    """

    request: ScoreRequest
    data: bytes
    info: ImageInfo | None
    faces: tuple[LocatedFace, ...]
    failure: Unscorable | None
    locate_ms: float
    metadata: ImageMetadata = NO_METADATA
    features: dict[str, NDArray[np.float32]] | None = None


def locate_faces(
    request: ScoreRequest, data: bytes, detector: "FaceDetector", limits: Limits, min_face_px: float
) -> LocatedImage:
    """Probe `data` and locate its faces; an image that cannot be scored gets a `failure`.

    `min_face_px` is the least short side of a face that the policy scores.
    """
    started = time.perf_counter()
    info: ImageInfo | None = None
    faces: tuple[LocatedFace, ...] = ()
    failure: Unscorable | None = None
    metadata = NO_METADATA
    try:
        info = probe_image(data, limits)
        metadata = read_image_metadata(data, info)
        if request.faces is None:
            faces = _number_faces(detector.detect(data, info, min_face_px))
        else:
            faces = tuple(LocatedFace(face.face_id, FaceBox(*face.box), None) for face in request.faces)
    except Unscorable as error:
        failure = error
    return LocatedImage(request, data, info, faces, failure, (time.perf_counter() - started) * 1000, metadata)


def make_failed_image(request: ScoreRequest, failure: Unscorable) -> LocatedImage:
    """Return the image of a request whose bytes could not be read or whose time ran out."""
    return LocatedImage(request, b"", None, (), failure, 0.0)


def _number_faces(found: "Sequence[Detection]") -> tuple[LocatedFace, ...]:
    return tuple(LocatedFace(str(number), face.box, face.confidence) for number, face in enumerate(found))
