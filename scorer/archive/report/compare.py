"""Compares two runs over the same images, face by face: what another bundle changes.

Two faces are the same if their `content_id`, `face_id` and image bytes are equal and half of their boxes overlaps.
Log-likelihoods of two bundles have no common unit, so ranks and p-values are compared, never nats.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scorer.archive.marks import read_marks
from scorer.archive.report.figures import Face
from scorer.archive.report.shares import MAX_GROUPS, MIN_GROUP_FACES, ReportModel, Share, find_share, sort_groups
from scorer.archive.report.summary import FACES_SHOWN
from scorer.archive.report.tables import Tables, open_tables
from scorer.archive.run import RunFile, read_run
from scorer.bundle.manifest import Evaluation
from scorer.errors import UsageError
from scorer.messages import Decision, PolicyFacts

LEVELS = (0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9)

_PAIRS = """
CREATE TABLE pairs AS SELECT a.shard, a.content_id, a.source, a.uri, a.span_offset, a.span_size, a.sha256,
  a.media_type, a.camera, a.jpeg_quality, a.resampled, a.face_id, a.face_x, a.face_y, a.face_width, a.face_height,
  a.face_count, a.log_likelihood, a.p_value, a.face_decision,
  b.log_likelihood AS other_log_likelihood, b.p_value AS other_p_value, b.face_decision AS other_decision,
  a.sha256 IS NOT DISTINCT FROM b.sha256 AND 1.5
    * greatest(0, least(a.face_x + a.face_width, b.face_x + b.face_width) - greatest(a.face_x, b.face_x))
    * greatest(0, least(a.face_y + a.face_height, b.face_y + b.face_height) - greatest(a.face_y, b.face_y))
    >= 0.5 * (a.face_width * a.face_height + b.face_width * b.face_height) AS same
FROM results_a a JOIN results_b b ON a.content_id = b.content_id AND a.face_id = b.face_id"""
_MATRIX = """
SELECT face_decision AS a, other_decision AS b, count(*) AS faces, sum(1 / face_count) AS images
FROM pairs WHERE same GROUP BY ALL"""
_GROUPS = """
WITH summed AS (
  SELECT CASE WHEN $1 = 'source' THEN coalesce(source, '') WHEN $1 = 'camera' THEN coalesce(camera, '')
      WHEN coalesce(len(resampled), 0) > 0 THEN 'resampled' ELSE 'not resampled' END AS name,
    count(*) AS faces, sum(1 / face_count) AS images, count(*) FILTER (face_decision <> other_decision) AS flips,
    count(*) FILTER (face_decision = 'flag') AS flagged_a, count(*) FILTER (other_decision = 'flag') AS flagged_b
  FROM pairs WHERE same GROUP BY 1
), ranked AS (SELECT *, row_number() OVER (ORDER BY faces DESC, name) AS row_rank FROM summed)
SELECT CASE WHEN row_rank <= $2 AND faces >= $3 THEN name END AS name, count(*) AS groups, sum(images) AS images,
  sum(faces) AS faces, sum(flips) AS flips, sum(flagged_a) AS flagged_a, sum(flagged_b) AS flagged_b
FROM ranked GROUP BY 1"""
_RANKS = """
WITH ranked AS (
  SELECT rank() OVER (ORDER BY log_likelihood) + (count(*) OVER (PARTITION BY log_likelihood) - 1) / 2 AS rank_a,
    rank() OVER (ORDER BY other_log_likelihood)
      + (count(*) OVER (PARTITION BY other_log_likelihood) - 1) / 2 AS rank_b
  FROM pairs WHERE same AND log_likelihood IS NOT NULL AND other_log_likelihood IS NOT NULL
)
SELECT CASE WHEN stddev_pop(rank_a) > 0 AND stddev_pop(rank_b) > 0 THEN corr(rank_a, rank_b) END AS value FROM ranked"""
# A stratum has n + 1 possible p-values, so that this is at most as long as the calibration, for any archive.
_P_VALUES = """
SELECT p, sum(a) AS a, sum(b) AS b FROM (
  SELECT p_value AS p, 1 AS a, 0 AS b FROM pairs WHERE same AND p_value IS NOT NULL AND other_p_value IS NOT NULL
  UNION ALL
  SELECT other_p_value, 0, 1 FROM pairs WHERE same AND p_value IS NOT NULL AND other_p_value IS NOT NULL
) GROUP BY p ORDER BY p"""
_ONLY_A = """
SELECT count(*) AS faces, count(*) FILTER (content_id NOT IN (
  SELECT content_id FROM results_b UNION ALL SELECT content_id FROM errors_b)) AS of_missing_images
FROM results_a a ANTI JOIN results_b b ON a.content_id = b.content_id AND a.face_id = b.face_id
WHERE a.face_id IS NOT NULL"""
_ONLY_B = """
SELECT count(*) AS faces, count(*) FILTER (content_id NOT IN (
  SELECT content_id FROM results_a UNION ALL SELECT content_id FROM errors_a)) AS of_missing_images
FROM results_b b ANTI JOIN results_a a ON a.content_id = b.content_id AND a.face_id = b.face_id
WHERE b.face_id IS NOT NULL"""
_DISAGREEMENTS = """
SELECT * EXCLUDE (face_count, same) FROM pairs
WHERE same AND face_decision <> other_decision AND p_value IS NOT NULL AND other_p_value IS NOT NULL
ORDER BY abs(ln(p_value) - ln(other_p_value)) DESC, content_id, face_id LIMIT $1"""
_COMMON = "SELECT 1 AS found FROM results_a a SEMI JOIN results_b b ON a.content_id = b.content_id LIMIT 1"


class Side(ReportModel):
    """One of the two runs.

    Attributes:
        faces_only_here: faces that the other run does not have.
        of_missing_images: those of them whose image the other run does not have.
        flagged: share of the common faces that this run flags.
    """

    folder: str
    bundle_id: str
    bundle_digest: str
    policy: PolicyFacts
    evaluation: Evaluation | None
    complete: bool
    faces_only_here: int
    of_missing_images: int
    flagged: Share


class FlipGroup(ReportModel):
    """The common faces of one source, camera or column; `folded` counts the groups in a combined one, otherwise 0."""

    name: str
    folded: int
    flips: Share
    flagged_a: Share
    flagged_b: Share


class Quantile(ReportModel):
    """The p-values, in A and in B, that a share `level` of the common faces does not exceed."""

    level: float
    a: float
    b: float


class Disagreement(ReportModel):
    """A face whose decision differs; `face` has the figures of the first run."""

    face: Face
    other_log_likelihood: float
    other_p_value: float
    other_decision: str


class RunComparison(ReportModel):
    """Two runs, face by face.

    Attributes:
        faces: faces that both runs have, at the same position in the same bytes.
        moved: faces with equal ids but another position or other bytes; not counted anywhere else.
        matrix: faces by decision in the first run, then in the second.
        flips: share of the faces whose decision differs.
        rank_correlation: Spearman's, of the log-likelihoods of the faces that both scored; None if all are equal.
        ks: Kolmogorov-Smirnov distance between the two distributions of p-values.
    """

    schema_version: int = 1
    a: Side
    b: Side
    faces: int
    moved: int
    matrix: dict[str, dict[str, int]]
    flips: Share
    rank_correlation: float | None
    ks: float | None
    quantiles: tuple[Quantile, ...]
    by_column: tuple[FlipGroup, ...]
    by_source: tuple[FlipGroup, ...]
    by_camera: tuple[FlipGroup, ...]
    disagreements: tuple[Disagreement, ...]


def compare_runs(folder_a: Path, folder_b: Path) -> RunComparison:
    """Return the differences between two runs over the same images, in bounded memory.

    Raises:
        UsageError: a folder is not a run, or the runs have no image in common.
        RunBroken: a file that a mark names cannot be read.
    """
    with open_tables() as tables:
        runs = []
        for folder, suffix in ((folder_a, "_a"), (folder_b, "_b")):
            run = read_run(folder)
            marks = list(read_marks(folder))
            tables.add_run(folder, marks, suffix)
            runs.append((folder, run, len(marks) == run.shards))
        if not tables.fetch(_COMMON):
            message = f"{folder_a} and {folder_b} have no image in common: compare two runs over the same sources"
            raise UsageError(message)
        tables.run(_PAIRS)
        return _compare(tables, *runs)


def _compare(tables: Tables, a: tuple[Path, RunFile, bool], b: tuple[Path, RunFile, bool]) -> RunComparison:
    matrix = {first.value: {second.value: 0 for second in Decision} for first in Decision}
    images = 0.0
    for row in tables.fetch(_MATRIX):
        matrix[row["a"]][row["b"]] += row["faces"]
        images += row["images"]
    faces = sum(sum(row.values()) for row in matrix.values())
    cases = round(images)
    flips = faces - sum(matrix[decision][decision] for decision in matrix)
    p_values = tables.fetch(_P_VALUES)
    only = (tables.fetch(_ONLY_A)[0], tables.fetch(_ONLY_B)[0])
    flagged = sum(matrix[Decision.FLAG].values()), sum(row[Decision.FLAG] for row in matrix.values())
    first, second = (
        _describe_side(run, alone, find_share(hits, faces, cases))
        for run, alone, hits in zip((a, b), only, flagged, strict=True)
    )
    return RunComparison(
        a=first,
        b=second,
        faces=faces,
        moved=tables.fetch("SELECT count(*) AS faces FROM pairs WHERE NOT same")[0]["faces"],
        matrix=matrix,
        flips=find_share(flips, faces, cases),
        rank_correlation=tables.fetch(_RANKS)[0]["value"],
        ks=find_ks(p_values),
        quantiles=find_quantiles(p_values),
        by_column=_read_groups(tables, "column"),
        by_source=_read_groups(tables, "source"),
        by_camera=_read_groups(tables, "camera"),
        disagreements=tuple(map(_read_disagreement, tables.fetch(_DISAGREEMENTS, [FACES_SHOWN]))),
    )


def _describe_side(run: tuple[Path, RunFile, bool], only: Mapping[str, Any], flagged: Share) -> Side:
    folder, facts, complete = run
    return Side(
        folder=str(folder),
        bundle_id=facts.bundle_id,
        bundle_digest=facts.bundle_digest,
        policy=facts.policy.describe(),
        evaluation=facts.evaluation,
        complete=complete,
        faces_only_here=only["faces"],
        of_missing_images=only["of_missing_images"],
        flagged=flagged,
    )


def _read_groups(tables: Tables, kind: str) -> tuple[FlipGroup, ...]:
    rows = tables.fetch(_GROUPS, [kind, MAX_GROUPS, MIN_GROUP_FACES])
    return tuple(
        FlipGroup(
            name=row["name"] or "",
            folded=row["groups"] if row["name"] is None else 0,
            **{
                name: find_share(int(row[name]), int(row["faces"]), max(1, round(row["images"])))
                for name in ("flips", "flagged_a", "flagged_b")
            },
        )
        for row in sort_groups(rows)
    )


def find_ks(p_values: Sequence[Mapping[str, Any]]) -> float | None:
    """Return the largest distance between two distributions, given as counts `a` and `b` by ascending `p`."""
    totals = Counter({side: int(sum(row[side] for row in p_values)) for side in "ab"})
    if not totals["a"] or not totals["b"]:
        return None
    distance, below = 0.0, {"a": 0, "b": 0}
    for row in p_values:
        for side in below:
            below[side] += int(row[side])
        distance = max(distance, abs(below["a"] / totals["a"] - below["b"] / totals["b"]))
    return distance


def find_quantiles(p_values: Sequence[Mapping[str, Any]]) -> tuple[Quantile, ...]:
    """Return the quantiles `LEVELS` of two distributions, given as counts `a` and `b` by ascending `p`."""
    total = int(sum(row["a"] for row in p_values))
    if not total:
        return ()

    def find(side: str, level: float) -> float:
        below = 0
        for row in p_values:
            below += int(row[side])
            if below >= math.ceil(level * total):
                return float(row["p"])
        return float(p_values[-1]["p"])

    return tuple(Quantile(level=level, a=find("a", level), b=find("b", level)) for level in LEVELS)


def _read_disagreement(row: Mapping[str, Any]) -> Disagreement:
    other = {name: row[name] for name in ("other_log_likelihood", "other_p_value", "other_decision")}
    face = {name: value for name, value in row.items() if name not in other}
    return Disagreement(face=Face(**face | {"resampled": row["resampled"] or ()}), **other)
