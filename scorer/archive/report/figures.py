"""What `summary.json` holds."""

from scorer.archive.report.shares import Figures, Group, Share
from scorer.bundle.manifest import Evaluation


class Face(Figures):
    """One of the least likely faces, with what it takes to read it again; `copies` are the same face elsewhere."""

    shard: int
    content_id: str
    source: str | None
    uri: str
    span_offset: int | None
    span_size: int | None
    sha256: str | None
    media_type: str | None
    camera: str | None
    jpeg_quality: int | None
    resampled: tuple[str, ...]
    face_id: str
    face_x: float
    face_y: float
    face_width: float
    face_height: float
    log_likelihood: float
    p_value: float
    face_decision: str
    copies: int = 0


class Column(Figures):
    """The figures of the images without a mark of resampling, or of those with one.

    Attributes:
        images, no_face: images that were answered for, and those of them without a face.
        unscored: images with faces of which none could be scored; their decision is review.
        image_decisions: images with faces, by decision; the unscored ones among them.
        faces, scored_faces: all, and those with a likelihood: a face that is too small has none.
        decisions: all faces, by decision.
        flagged: share of the scored faces; faces of one image count as one case.
        by_source, by_camera: the same for each group with enough faces; the rest folded into one.
    """

    images: int
    no_face: int
    unscored: int
    image_decisions: dict[str, int]
    faces: int
    scored_faces: int
    decisions: dict[str, int]
    flagged: Share
    by_source: tuple[Group, ...]
    by_camera: tuple[Group, ...]
    least_likely: tuple[Face, ...]


class Histogram(Figures):
    """Scored faces by log-likelihood in nats; the first and last bin hold everything beyond, too.

    `flag_nats` and `review_nats` are the highest likelihoods that the policy's rates still reach; None where no face
    is that unlikely.
    """

    edges_nats: tuple[float, ...]
    main: tuple[int, ...]
    apart: tuple[int, ...]
    flag_nats: float | None
    review_nats: float | None


class Throughput(Figures):
    """From the commit marks: `busy_s` is the time in which any shard was worked on, stages add up over threads."""

    shards: int
    busy_s: float
    images_per_s: float | None
    stage_s: dict[str, float]
    slowest_stage: str | None


class Summary(Figures):
    """What a run found; `complete` when every planned shard is committed.

    `evaluation` is the bundle's own. `left_out` counts, by `scorer.archive.left_out.LeftOut`, what the sources hold
    and what is no image of the run.
    """

    schema_version: int = 1
    bundle_id: str
    bundle_digest: str
    policy_id: str
    policy_version: str
    promised_flag_share: float
    promised_review_share: float
    policy_note: str
    evaluation: Evaluation | None
    shards_planned: int
    shards_committed: int
    complete: bool
    images: int
    failed: int
    failed_by_reason: dict[str, int]
    left_out: dict[str, int]
    marks: dict[str, int]
    main: Column
    apart: Column
    histogram: Histogram
    throughput: Throughput
