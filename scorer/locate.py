"""The first half of scoring, one image at a time: probe the bytes, then find or check the faces."""

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ingest.probe import ImageInfo, Limits, probe_image
from ingest.reasons import Unscorable
from ingest.spec import FaceBox
from scorer.messages import ScoreRequest

if TYPE_CHECKING:
    from ingest.detect import FaceDetector


@dataclass(frozen=True, slots=True)
class LocatedFace:
    """A face to score; `confidence` is None when the caller brought the box."""

    face_id: str
    box: FaceBox
    confidence: float | None


@dataclass(frozen=True, slots=True)
class LocatedImage:
    """A request after probing: either `info` and its `faces`, or the `failure` that ended it."""

    request: ScoreRequest
    data: bytes
    info: ImageInfo | None
    faces: tuple[LocatedFace, ...]
    failure: Unscorable | None
    locate_ms: float


def locate_faces(request: ScoreRequest, data: bytes, detector: "FaceDetector", limits: Limits) -> LocatedImage:
    """Probe `data` and locate its faces; whatever is wrong with the image ends up in `failure`."""
    started = time.perf_counter()
    info: ImageInfo | None = None
    faces: tuple[LocatedFace, ...] = ()
    failure: Unscorable | None = None
    try:
        info = probe_image(data, limits)
        faces = _requested_faces(request) if request.faces is not None else _detected_faces(data, info, detector)
    except Unscorable as error:
        failure = error
    return LocatedImage(request, data, info, faces, failure, (time.perf_counter() - started) * 1000)


def refuse(request: ScoreRequest, failure: Unscorable) -> LocatedImage:
    """Return the located image of a request whose bytes could not even be read."""
    return LocatedImage(request, b"", None, (), failure, 0.0)


def _requested_faces(request: ScoreRequest) -> tuple[LocatedFace, ...]:
    return tuple(LocatedFace(face.face_id, FaceBox(*face.box), None) for face in request.faces or ())


def _detected_faces(data: bytes, info: ImageInfo, detector: "FaceDetector") -> tuple[LocatedFace, ...]:
    return tuple(
        LocatedFace(str(number), found.box, found.confidence)
        for number, found in enumerate(detector.detect(data, info))
    )
