"""Why an image or a face could not be scored, or got its decision: one typed list of results, errors and tests."""

from enum import StrEnum


class Reason(StrEnum):
    """Machine-readable reason codes; the values are part of the result schema."""

    EMPTY = "empty"
    UNREADABLE = "unreadable"
    FORBIDDEN_URI = "forbidden_uri"
    TIMED_OUT = "timed_out"
    OUT_OF_MEMORY = "out_of_memory"
    DIGEST_MISMATCH = "digest_mismatch"
    TOO_MANY_BYTES = "too_many_bytes"
    UNSUPPORTED_FORMAT = "unsupported_format"
    ANIMATED = "animated"
    TRUNCATED = "truncated"
    UNDECODABLE = "undecodable"
    TOO_MANY_PIXELS = "too_many_pixels"
    SIDE_TOO_LONG = "side_too_long"
    SIDE_TOO_SHORT = "side_too_short"
    TOO_MANY_SCANS = "too_many_scans"
    TOO_LONG = "too_long"
    TOO_MANY_FRAMES = "too_many_frames"
    TOO_MANY_STREAMS = "too_many_streams"
    TOO_MANY_FACES = "too_many_faces"
    BIT_RATE_TOO_HIGH = "bit_rate_too_high"
    BOXES_OF_CLIP = "boxes_of_clip"
    UNCALIBRATED_VIDEO = "uncalibrated_video"
    STATED_GENERATED = "stated_generated"
    NO_FACE = "no_face"
    BOX_OUTSIDE_IMAGE = "box_outside_image"
    FACE_CUT_OFF = "face_cut_off"
    FACE_TOO_SMALL = "face_too_small"
    NOT_FINITE = "not_finite"
    ENGINE_FAILED = "engine_failed"
    KILLS_WORKER = "kills_worker"
    DEFECT = "defect"


# A person can review such a face: a size limit or the edge of the image prevents its score, not damage.
UNSCORED_BY_SIZE = frozenset({Reason.FACE_TOO_SMALL, Reason.FACE_CUT_OFF})
UNSUPPORTED = frozenset({Reason.UNSUPPORTED_FORMAT, Reason.ANIMATED})


class Unscorable(Exception):
    """One image or face cannot be scored. The others of its batch are not affected.

    Attributes:
        reason: the machine-readable code.
        detail: one sentence: what was found and which limit it exceeds; never image content.
    """

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail
