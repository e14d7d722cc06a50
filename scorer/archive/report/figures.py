"""The content of `summary.json`."""

from scorer.archive.report.shares import Group, ReportModel, Share
from scorer.bundle.manifest import Evaluation


class Face(ReportModel):
    """One of the least likely faces, with everything that is needed to read it again; `copies` counts duplicates."""

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


class FigureColumn(ReportModel):
    """The figures of the images without a mark of resampling, or of those with one.

    Attributes:
        images, no_face: images with a row of results, and those of them without a face.
        unscored: images with faces of which none could be scored; their decision is review.
        image_decisions: images with faces, by decision; includes the unscored ones.
        faces, scored_faces: all faces, and those with a likelihood: a face that is too small has none.
        decisions: all faces, by decision.
        flagged: share of the scored faces; faces of one image count as one case.
        by_source, by_camera, by_stratum: the same share for each group with enough faces; the others are combined.
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
    by_stratum: tuple[Group, ...]
    least_likely: tuple[Face, ...]


class Track(ReportModel):
    """One of the least likely tracks: its median log-likelihood, and when its least typical face is seen."""

    content_id: str
    face_id: str
    log_likelihood: float
    p_value: float
    stratum: str | None
    calibrated_by: str | None
    face_decision: str
    track_start_s: float
    track_end_s: float
    track_frames: int
    track_scored: int
    track_least_typical_s: float
    track_least_typical_log_likelihood: float
    copies: int = 0


class ClipFigures(ReportModel):
    """The figures of videos and animations, which count nowhere else but in `Summary.images` and `Summary.failed`.

    Attributes:
        clips, no_face, unscored: as in `FigureColumn`.
        damaged: clips of which frames are missing.
        duration_s: of all of them.
        tracks, scored_tracks: all tracks, and those with a likelihood.
        decisions: all tracks, by decision.
    """

    clips: int
    no_face: int
    unscored: int
    damaged: int
    duration_s: float
    tracks: int
    scored_tracks: int
    decisions: dict[str, int]
    least_likely: tuple[Track, ...]


class StatementCount(ReportModel):
    """How many images make a statement of this kind in this part of the file, with this validity."""

    source: str
    kind: str
    validity: str
    images: int


class StatementFigures(ReportModel):
    """What images state about their origin; failed images and clips are not counted.

    Attributes:
        read: images whose statements were read.
        stating: those of them that make any.
        generated: those of which a rule of the policy decided.
        counts: the most frequent first; an image may make several statements.
    """

    read: int
    stating: int
    generated: int
    counts: tuple[StatementCount, ...]


class Histogram(ReportModel):
    """Scored faces by log-likelihood in nats; the first and last bin also count everything beyond them.

    `flag_nats` and `review_nats` are the highest likelihoods whose p-values are within the policy's rates; None if no
    face is that unlikely.
    """

    edges_nats: tuple[float, ...]
    main: tuple[int, ...]
    apart: tuple[int, ...]
    flag_nats: float | None
    review_nats: float | None


class Throughput(ReportModel):
    """From the commit marks: `busy_s` is the time in which any shard was worked on; `stage_s` sums over threads."""

    shards: int
    busy_s: float
    images_per_s: float | None
    stage_s: dict[str, float]
    slowest_stage: str | None


class Summary(ReportModel):
    """The findings of a run; `complete` when every planned shard is committed.

    `evaluation` is the bundle's statement. `left_out` counts, by `scorer.archive.left_out.LeftOut`, what the sources
    contain and what is not an image of the run.
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
    main: FigureColumn
    apart: FigureColumn
    clips: ClipFigures
    statements: StatementFigures
    histogram: Histogram
    throughput: Throughput
