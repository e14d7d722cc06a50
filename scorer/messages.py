"""The request and the result, the same for a file, an archive and a stream.

JSON Schemas are generated from these types (`result_schema`), never written by hand.
"""

from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal, Self
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, ValidationError, WithJsonSchema, model_validator

from ingest.clips import Sampling
from ingest.provenance.statements import (
    MAX_STATEMENT_CHARACTERS,
    MAX_STATEMENTS,
    Statement,
    StatementKind,
    StatementSource,
    Validity,
)
from ingest.reasons import UNSCORED_BY_SIZE, Reason
from ingest.resampling import ResamplingMark
from ingest.spec import MAX_COORDINATE, FaceBox
from scorer.strata import Stratum

MAX_FACES = 64
MAX_ID_CHARACTERS = 4096  # a path is the id of a file, and Linux allows this many
MAX_ATTRIBUTES, MAX_ATTRIBUTE_NAME, MAX_ATTRIBUTE_CHARACTERS = 64, 128, 1024
# The largest possible result: 6 bytes for each character of the request that it repeats, at most 1 KiB of measurements
# for each face, and at most 16 KiB for the rest.
MAX_RESULT_BYTES = (
    6 * (3 * MAX_ID_CHARACTERS + MAX_ATTRIBUTES * (MAX_ATTRIBUTE_NAME + MAX_ATTRIBUTE_CHARACTERS + 1))
    + MAX_FACES * (6 * 128 + 1024)
    + 384 * 1024  # of a clip: at most 128 tracks, 300 frames and 600 faces in them
    + MAX_STATEMENTS * (6 * MAX_STATEMENT_CHARACTERS + 256)
    + 16 * 1024
)
MAX_RULES = MAX_CHOICES = 8  # every result repeats the rules of its policy
SHOWN_PROBLEMS, LISTED_PROBLEMS = 3, 100
MAX_NAME_CHARACTERS, MAX_PROBLEM_CHARACTERS = 100, 300

Probability = Annotated[float, Field(ge=0, le=1)]
EncodedImage = Annotated[bytes, WithJsonSchema({"type": "string", "contentEncoding": "base64"})]
Coordinate = Annotated[float, Field(ge=-MAX_COORDINATE, le=MAX_COORDINATE)]
BoxNumbers = Annotated[
    tuple[Coordinate, Coordinate, Coordinate, Coordinate], Field(description="x, y, width, height in upright pixels")
]

Attributes = Annotated[
    dict[
        Annotated[str, Field(max_length=MAX_ATTRIBUTE_NAME)],
        Annotated[str, Field(max_length=MAX_ATTRIBUTE_CHARACTERS)],
    ],
    Field(max_length=MAX_ATTRIBUTES, description="anything of the caller; the result repeats it"),
]


class Decision(StrEnum):
    """What the policy decides for a face or an image, from least to most suspicious."""

    PASS = "pass"  # noqa: S105 - a decision, not a password
    REVIEW = "review"
    FLAG = "flag"

    @property
    def rank(self) -> int:
        """0 for pass, 1 for review, 2 for flag."""
        return list(Decision).index(self)


class Status(StrEnum):
    """The outcome: `scored`, `no_face`, `unsupported` (a kind of file that is not scored) or `failed` (damaged)."""

    SCORED = "scored"
    NO_FACE = "no_face"
    UNSUPPORTED = "unsupported"
    FAILED = "failed"


class CalibratedBy(StrEnum):
    """The held-out photographs that a p-value was taken against: those of the face's `stratum`, or all (`pooled`)."""

    STRATUM = "stratum"
    POOLED = "pooled"


class DeadLetterCode(StrEnum):
    """Why a record of a stream got no result."""

    UNREADABLE = "unreadable"
    NULL_VALUE = "null_value"
    TOO_LARGE = "too_large"
    NOT_JSON = "not_json"
    WRONG_SCHEMA = "wrong_schema"
    UNKNOWN_TENANT = "unknown_tenant"
    UNKNOWN_POLICY = "unknown_policy"
    PAYLOAD_UNAVAILABLE = "payload_unavailable"
    ANSWER_TOO_LARGE = "answer_too_large"
    KILLS_WORKER = "kills_worker"


class Message(BaseModel):
    """Immutable; unknown fields, NaN and infinity are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class RequestedFace(Message):
    """A face that the caller has located."""

    face_id: Annotated[str, Field(min_length=1, max_length=128)]
    box: BoxNumbers

    @model_validator(mode="after")
    def _box_has_area(self) -> Self:
        FaceBox(*self.box)
        return self


class ImageSource(Message):
    """The encoded image: exactly one of `uri` and `bytes` (base64 in JSON).

    `media_type` is what the producer believes, and decides nothing: the bytes do. A claim check of `video/*` is read in
    one step, since videos are large.
    """

    model_config = ConfigDict(populate_by_name=True, val_json_bytes="base64", ser_json_bytes="base64")

    uri: str | None = None
    data: Annotated[EncodedImage | None, Field(alias="bytes")] = None
    sha256: Annotated[str | None, Field(pattern="^[0-9a-f]{64}$")] = None
    media_type: Annotated[str | None, Field(max_length=255, examples=["image/jpeg", "video/mp4"])] = None

    @property
    def is_large(self) -> bool:
        """Whether the producer states a video."""
        return (self.media_type or "").lower().startswith("video/")

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.uri is None) == (self.data is None):
            message = "an image needs exactly one of 'uri' and 'bytes'"
            raise ValueError(message)
        return self


class ScoreRequest(Message):
    """One image to score; `faces` absent means "find them".

    The result repeats `submitted_at`, so that a consumer can measure the time since the submission. `explain` asks the
    HTTP service for the reasons of the score; a stream refuses it.
    """

    request_id: Annotated[str, Field(min_length=1, max_length=MAX_ID_CHARACTERS)]
    content_id: Annotated[str, Field(min_length=1, max_length=MAX_ID_CHARACTERS)]
    image: ImageSource
    faces: Annotated[tuple[RequestedFace, ...] | None, Field(max_length=MAX_FACES)] = None
    tenant: Annotated[str | None, Field(max_length=MAX_ID_CHARACTERS)] = None
    stream: str | None = None
    submitted_at: datetime | None = None
    policy_id: str | None = None
    explain: bool = False
    attributes: Attributes = Field(default_factory=dict)

    @model_validator(mode="after")
    def _face_ids_differ(self) -> Self:
        ids = [face.face_id for face in self.faces or ()]
        if len(ids) != len(set(ids)):
            message = f"request {self.request_id} names a face_id twice"
            raise ValueError(message)
        return self


class FaceResult(Message):
    """One face. `log_likelihood` (nats), `p_value` and `score` are absent when the face was not scored.

    `p_value` is the share of held-out photographs at most this likely, counting the face itself, so
    never below 1/(n+1); `score` is 1 - p_value: high means unlike the photographs this bundle knows.
    `quality` has `face_px`, the short side in pixels of the part of the box that lies in the image, and `high_band`
    where it was measured: the share of fine detail (0 to 1), near 0 in an image that was made larger.
    `stratum` is the face's kind of processing, and `calibrated_by` whether `p_value` is taken against photographs of
    that stratum. Results of older releases lack both.
    """

    face_id: str
    box: BoxNumbers
    detector_confidence: Probability | None
    log_likelihood: float | None
    p_value: Probability | None
    score: Probability | None
    decision: Decision
    reason_codes: tuple[Reason, ...]
    quality: dict[str, float]
    stratum: Stratum | None = None
    calibrated_by: CalibratedBy | None = None


class ImageFacts(Message):
    """The image as probed; `width` and `height` in upright pixels. A fact that could not be read is null.

    `camera` (EXIF make and model), `exif_width` and `exif_height` (stored pixels) are what the headers state: anybody
    can write them. `jpeg_quality` is on libjpeg's scale of 1 to 100. `resampled` has the marks of an image that was
    reduced, enlarged or compressed strongly, `upsampled` only where a face has `high_band`, which a Triton server does
    not measure; it is null where the image was not probed.
    """

    sha256: str | None = None
    width: int | None = None
    height: int | None = None
    media_type: str | None = None
    camera: str | None = None
    jpeg_quality: int | None = None
    exif_width: int | None = None
    exif_height: int | None = None
    resampled: tuple[ResamplingMark, ...] | None = None


class ModelFacts(Message):
    """The bundle that scored: its name and the SHA-256 of its manifest, which covers every file."""

    bundle_id: str
    bundle_digest: str


class StatementRule(Message):
    """Images with a face that state that they were generated get at least this decision; no rule lowers one.

    A rule applies to the statements of its `kinds`, `sources` and `validities`; null means any.
    """

    at_least: Literal[Decision.REVIEW, Decision.FLAG]
    kinds: Annotated[
        tuple[Literal[StatementKind.DIGITAL_SOURCE_TYPE, StatementKind.GENERATOR], ...] | None,
        Field(min_length=1, max_length=MAX_CHOICES),
    ] = None
    sources: Annotated[tuple[StatementSource, ...] | None, Field(min_length=1, max_length=MAX_CHOICES)] = None
    validities: Annotated[tuple[Validity, ...] | None, Field(min_length=1, max_length=MAX_CHOICES)] = None

    def applies(self, statement: Statement) -> bool:
        """Return whether the rule applies to a statement."""
        filters = (self.kinds, statement.kind), (self.sources, statement.source), (self.validities, statement.validity)
        return statement.says_generated and all(allowed is None or value in allowed for allowed, value in filters)


class PolicyFacts(Message):
    """The policy that decided: its name, its version, and every value that affects the decision.

    The false-alarm rates are per face; a face whose short side is under `min_face_px` goes to review without a score.
    `statements` are the rules for images that state that they were generated.
    """

    policy_id: str
    version: str
    flag_false_alarm_rate: Probability
    review_false_alarm_rate: Probability
    min_face_px: Annotated[float, Field(gt=0)]
    statements: Annotated[tuple[StatementRule, ...], Field(max_length=MAX_RULES)] = ()


class LeastTypical(Message):
    """The face of a track with the lowest log-likelihood."""

    time_s: float
    box: BoxNumbers
    log_likelihood: float


class TrackResult(Message):
    """A face of a clip over time; the result's `faces` have one face of the same `face_id`.

    That face is the one with the (lower) median log-likelihood of the track, seen at `median_time_s`. `frame_count` is
    the number of sampled frames with this face, `scored_count` of those that were scored. Times count in seconds from
    the clip's first frame.
    """

    face_id: str
    start_s: float
    end_s: float
    frame_count: int
    scored_count: int
    median_time_s: float | None
    least_typical: LeastTypical | None


class FrameFace(Message):
    """A face in a sampled frame; `log_likelihood` is absent when it was not scored."""

    face_id: str
    box: BoxNumbers
    log_likelihood: float | None


class FrameResult(Message):
    """A sampled frame of a clip and its faces."""

    time_s: float
    faces: tuple[FrameFace, ...]


class ClipResult(Message):
    """A video or animation as read, and how it was sampled.

    `damage` states why frames are missing. `hdr` is `pq` or `hlg` where the frames were mapped to sRGB.
    """

    codec: str
    duration_s: float
    frame_count: int
    sampled_count: int
    sampling: Sampling
    frames_per_second: float
    hdr: str | None
    damage: str | None


class ScoreResult(Message):
    """The answer to one request.

    `score` is the highest of its faces' scores. `decision` is the most suspicious of their decisions, or a higher one
    where a rule of the policy for statements applies, with the reason `stated_generated`; it is null when there is no
    face. Faces of which none could be scored give the status `failed` and the decision `review`. `pass` does not mean
    that a face is a photograph. `version` is the release that scored, `submitted_at` comes from the request; results of
    older releases lack both.

    `clip`, `tracks` and `frames` belong to videos and animations: `faces` then has one face for each track. Results of
    images and of older releases lack them.

    `tenant` comes from the request. `provenance` is null where statements were not read, and empty where the file
    makes none.
    """

    schema_version: Literal[1] = 1
    version: str | None = None
    result_id: UUID
    request_id: str
    content_id: str
    status: Status
    decision: Decision | None
    reason_codes: tuple[Reason, ...]
    detail: str | None
    score: Probability | None
    face_count: int
    image: ImageFacts
    faces: tuple[FaceResult, ...]
    model: ModelFacts
    policy: PolicyFacts
    timing_ms: dict[str, float]
    submitted_at: datetime | None = None
    scored_at: datetime
    attributes: dict[str, str]
    clip: ClipResult | None = None
    tracks: tuple[TrackResult, ...] = ()
    frames: tuple[FrameResult, ...] = ()
    tenant: str | None = None
    provenance: Annotated[tuple[Statement, ...] | None, Field(max_length=MAX_STATEMENTS)] = None

    @property
    def failed(self) -> bool:
        """Whether the image counts as failed; an image whose faces are only too small or cut off does not."""
        unscored = self.status in {Status.FAILED, Status.UNSUPPORTED}
        return unscored and not (self.faces and set(self.reason_codes) <= UNSCORED_BY_SIZE | {Reason.STATED_GENERATED})

    @model_validator(mode="after")
    def _images_with_faces_are_decided(self) -> Self:
        if bool(self.faces) != (self.decision is not None):
            message = f"result {self.result_id} has {len(self.faces)} faces and decision {self.decision}"
            raise ValueError(message)
        if (self.status is Status.SCORED) != any(face.p_value is not None for face in self.faces):
            message = f"result {self.result_id} has status {self.status}, which its faces contradict"
            raise ValueError(message)
        return self


def result_schema() -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of a result line."""
    return ScoreResult.model_json_schema(mode="serialization")


def describe_problems(error: ValidationError, name: str = "") -> str:
    """Return one line that states which fields break which rules, without any value: it may be a picture or a secret.

    `name` is the name of the object; it is the prefix of the names of its fields.
    """
    count = error.error_count()
    if count > LISTED_PROBLEMS:  # a list of all would take 1 KiB for each
        return f"{name or 'the object'}: {count} names break rules, such as unknown ones; they are not listed"
    problems = error.errors(include_url=False, include_context=False, include_input=False)
    shown = [
        ": ".join(filter(None, (_join([name, *each["loc"]]), each["msg"][:MAX_PROBLEM_CHARACTERS])))
        for each in problems[:SHOWN_PROBLEMS]
    ]
    more = f"; and {count - SHOWN_PROBLEMS} more" if count > SHOWN_PROBLEMS else ""
    return "; ".join(shown) + more


def _join(names: Sequence[str | int]) -> str:
    return ".".join(str(name)[:MAX_NAME_CHARACTERS] for name in names).strip(".")
