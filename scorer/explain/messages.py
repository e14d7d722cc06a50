"""The types of an explanation, from which its JSON Schema follows."""

from typing import Annotated, Literal

from pydantic import Field

from scorer.messages import CalibratedBy, Decision, FaceResult, Message, Probability, ScoreResult
from scorer.strata import Stratum

GRID = 7  # squares on a side of the occlusion map
Change = Literal["jpeg_90", "resize_95"]


class CalibrationPosition(Message):
    """Where the face lies among the held-out photographs that its p-value was taken against.

    `at_most` of `faces` photographs' faces are at most as likely as this one, so `p_value` is (1 + at_most) /
    (faces + 1). Exactly the faces below `flag_nats` and `review_nats` are flagged and reviewed; null where the
    calibration has too few faces for the rate. Half of the photographs lie between `quarter_nats` and
    `three_quarters_nats`. `counts` are the photographs between neighbours of `edges_nats`.
    """

    calibrated_by: CalibratedBy
    faces: int
    at_most: int
    p_value: Probability
    flag_nats: float | None
    review_nats: float | None
    quarter_nats: float
    three_quarters_nats: float
    edges_nats: tuple[float, ...]
    counts: tuple[int, ...]


class OcclusionMap(Message):
    """How the log-likelihood changes when one square of the crop is filled with the crop's mean colour.

    `changes_nats` has rows from top to bottom: positive where the covered face is more like the photographs.
    `p_values` are those of the covered faces.
    """

    changes_nats: Annotated[tuple[tuple[float, ...], ...], Field(min_length=GRID, max_length=GRID)]
    p_values: Annotated[tuple[tuple[Probability, ...], ...], Field(min_length=GRID, max_length=GRID)]


class MixtureComponent(Message):
    """A component of the mixture: a cluster of photographs.

    `number` counts from 1; `share` is its weight, `probability` that of this component given the face.
    `squared_distance` is the Mahalanobis distance, squared and divided by the number of features: about 1 for the
    component's own photographs.
    """

    number: int
    share: Probability
    probability: Probability
    squared_distance: float


class Clusters(Message):
    """The most probable component of the mixture for a face, and the one whose centre is nearest."""

    components: int
    most_probable: MixtureComponent
    nearest: MixtureComponent


class TagRank(Message):
    """One EXIF tag as the file states it, and as the bundle's head ranks it from the face.

    Ranks are shares of calibration photographs with a lower tag, or with a lower prediction. `skill` is the share of
    pairs of these `photographs` that the head orders rightly, and its 95 % interval; if that does not lie above 0.5,
    which is chance, `predicted_rank` is null. `contradicts`: the ranks differ by more than `limit`, as at most 1 % of
    photographs do. Null: cannot be judged.
    """

    tag: str
    stated: float | None
    stated_rank: Probability | None
    predicted_rank: Probability | None
    contradicts: bool | None
    limit: Probability | None
    skill: tuple[Probability, Probability, Probability]
    photographs: int


class ChangedCopy(Message):
    """The same face after a change of the image, scored with the same policy.

    `jpeg_90`: saved again as a JPEG of quality 90. `resize_95`: both sides reduced to 95 %, saved without loss. The
    copy has a stratum of its own. Without a score, `detail` states why.
    """

    change: Change
    log_likelihood: float | None = None
    p_value: Probability | None = None
    decision: Decision | None = None
    stratum: Stratum | None = None
    calibrated_by: CalibratedBy | None = None
    changes_decision: bool
    detail: str | None = None


class Cost(Message):
    """The crops that went through the network, the image's own score included, and the wall time of the whole."""

    engine_passes: int
    seconds: float


class Explanation(Message):
    """Why the face `face_id` of a result got its score.

    `sentences` say the same as the other fields, and `meaning` what the decisions mean. `crop_png` is a data URI of the
    crop as the network saw it. `screenshot_like`: stored without loss, without a camera in the headers, as a screenshot
    is. `camera_tags` is null if the bundle has no heads for them.
    """

    face_id: str
    sentences: tuple[str, ...] = ()
    meaning: tuple[str, ...]
    crop_png: Annotated[str, Field(pattern="^data:image/png;base64,")]
    calibration: CalibrationPosition
    occlusion: OcclusionMap
    clusters: Clusters
    camera_tags: tuple[TagRank, ...] | None = None
    screenshot_like: bool
    copies: tuple[ChangedCopy, ...]
    cost: Cost


class ExplainedResult(ScoreResult):
    """The plain result of an image with the explanation of one of its faces."""

    explanation: Explanation

    @property
    def face(self) -> FaceResult:
        """The face that is explained."""
        return next(face for face in self.faces if face.face_id == self.explanation.face_id)
