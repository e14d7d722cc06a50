"""The first half of scoring, one image or clip at a time: probe the bytes, then find or check the faces."""

import hashlib
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from ingest.clips import DEFAULT_CLIP_SETTINGS, ClipFacts, ClipSettings, SampledClip, name_animation, name_clip
from ingest.image_metadata import ImageMetadata, read_image_metadata
from ingest.probe import ImageInfo, Limits, probe_image
from ingest.provenance.statements import Statement
from ingest.reasons import Reason, Unscorable
from ingest.spec import FaceBox
from scorer.clips import LocatedClip, Shot, link_faces
from scorer.messages import ScoreRequest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ingest.detect import Detection, FaceDetector


NO_METADATA = ImageMetadata()


@dataclass(frozen=True, slots=True)
class LocatedFace:
    """A face to score; `confidence` is None when the request contains the box.

    In a clip, the faces of one track have one `face_id`, and each has its `shot`.
    """

    face_id: str
    box: FaceBox
    confidence: float | None
    shot: Shot | None = None


@dataclass(frozen=True, slots=True)
class LocatedImage:
    """A request after probing: either `info` and `faces`, or the `failure` that stopped it.

    `metadata` is what the image's headers state, and `statements` what the file states about its origin; None if that
    was not read. `features` is None unless the job keeps features: scoring then adds [D] float32 for each scored face
    by `face_id`, but none for a clip. `clip` is None for an image; `data` is empty for a clip, whose faces carry what
    was cut.
    """

    request: ScoreRequest
    data: bytes
    info: ImageInfo | None
    faces: tuple[LocatedFace, ...]
    failure: Unscorable | None
    locate_ms: float
    metadata: ImageMetadata = NO_METADATA
    statements: tuple[Statement, ...] | None = None
    features: dict[str, NDArray[np.float32]] | None = None
    clip: LocatedClip | None = None

    @property
    def size(self) -> int:
        """The bytes that are held in memory."""
        return len(self.data) + sum(len(face.shot.crop.data) for face in self.faces if face.shot)


class MediaReader(Protocol):
    """Finds the faces of images, and of the sampled frames of clips: a `Sandbox`."""

    def detect(self, data: bytes, info: ImageInfo, min_face_px: float | None = None) -> "list[Detection]":
        """See `FaceDetector.detect`."""

    def read_statements(self, data: bytes, info: ImageInfo) -> tuple[Statement, ...]:
        """See `Sandbox.read_statements`."""

    def sample(
        self, data: bytes, sha256: str, media_type: str, settings: ClipSettings, min_face_px: float | None = None
    ) -> tuple[ClipFacts, SampledClip]:
        """See `Sandbox.sample`."""


def locate_faces(  # noqa: PLR0913, PLR0917 - the parts of a deployment
    request: ScoreRequest,
    data: bytes,
    detector: MediaReader,
    limits: Limits,
    min_face_px: float,
    clips: ClipSettings = DEFAULT_CLIP_SETTINGS,
    *,
    provenance: bool = False,
) -> LocatedImage:
    """Probe `data` and locate its faces; an image or clip that cannot be scored gets a `failure`.

    `min_face_px` is the least short side of a face that the policy scores. With `provenance`, the statements of an
    image are read, too; nothing else depends on them.
    """
    started = time.perf_counter()
    image = LocatedImage(request, data, None, (), None, 0.0)
    try:
        probed = _probe(data, limits)
        if isinstance(probed, str):
            image = _locate_clip(image, probed, detector, min_face_px, clips)
        else:
            image = replace(image, info=probed, metadata=read_image_metadata(data, probed))
            if provenance:
                image = replace(image, statements=detector.read_statements(data, probed))
            image = _locate_faces(image, probed, detector, min_face_px)
    except Unscorable as failure:
        image = replace(image, failure=failure)
    return replace(image, locate_ms=(time.perf_counter() - started) * 1000)


def _probe(data: bytes, limits: Limits) -> ImageInfo | str:
    """Return the facts of an image, or the media type of a clip."""
    if len(data) <= limits.max_bytes and (media_type := name_clip(data)):
        return media_type
    try:
        return probe_image(data, limits)
    except Unscorable as failure:
        if failure.reason is Reason.ANIMATED and (media_type := name_animation(data)):
            return media_type
        raise


def _locate_faces(image: LocatedImage, info: ImageInfo, detector: "FaceDetector", min_face_px: float) -> LocatedImage:
    if (given := image.request.faces) is not None:
        return replace(image, faces=tuple(LocatedFace(face.face_id, FaceBox(*face.box), None) for face in given))
    found = detector.detect(image.data, info, min_face_px)
    return replace(image, info=replace(info, sound=any(face.sound for face in found)), faces=_number_faces(found))


def _locate_clip(
    image: LocatedImage, media_type: str, reader: MediaReader, min_face_px: float, settings: ClipSettings
) -> LocatedImage:
    if image.request.faces is not None:
        message = "boxes belong to one image, and this is a clip of several frames: leave the boxes out"
        raise Unscorable(Reason.BOXES_OF_CLIP, message)
    digest = hashlib.sha256(image.data).hexdigest()
    facts, sample = reader.sample(image.data, digest, media_type, settings, min_face_px)
    if not sample.frames:
        raise sample.damage or Unscorable(Reason.UNDECODABLE, "no frame of the clip can be decoded")
    faces = []
    for number, track in enumerate(link_faces(sample.frames)):
        for at, index in track:
            frame = sample.frames[at]
            face = frame.faces[index]
            shot = Shot(at, frame.time_s, frame.width, frame.height, face.window_px, face.crop)
            faces.append(LocatedFace(str(number), face.box, face.confidence, shot))
    first = sample.frames[0]
    return replace(
        image,
        data=b"",
        info=ImageInfo(media_type, first.width, first.height, 1, digest, scans=facts.frames),
        faces=tuple(faces),
        failure=None if faces else sample.damage,  # damage may hide a face
        clip=LocatedClip(facts, settings, tuple(frame.time_s for frame in sample.frames), sample.damage),
    )


def make_failed_image(request: ScoreRequest, failure: Unscorable) -> LocatedImage:
    """Return the image of a request whose bytes could not be read or whose time ran out."""
    return LocatedImage(request, b"", None, (), failure, 0.0)


def _number_faces(found: "Sequence[Detection]") -> tuple[LocatedFace, ...]:
    return tuple(LocatedFace(str(number), face.box, face.confidence) for number, face in enumerate(found))
