"""`summary.json`: the findings of a run, counted from its Parquet files.

Images with a mark of resampling are counted apart, never in the main figures: resampling erases the traces of a camera.
So are clips, whose faces are tracks.
Memory does not grow with the archive: DuckDB aggregates, and spills to disk what does not fit.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ingest.reasons import Reason
from scorer.archive.marks import CommitMark, read_marks
from scorer.archive.report.figures import (
    ClipFigures,
    Face,
    FigureColumn,
    Histogram,
    StatementCount,
    StatementFigures,
    Summary,
    Throughput,
    Track,
)
from scorer.archive.report.shares import MAX_GROUPS, MIN_GROUP_FACES, find_share, read_groups
from scorer.archive.report.tables import Tables, open_tables
from scorer.archive.run import RunFile, read_run
from scorer.archive.source.plan import find_facts
from scorer.errors import RunBroken
from scorer.messages import Decision, Status

BINS = 40
TAIL = 0.005  # share of faces on each side that the histogram's first and last bins collect
FACES_SHOWN = 24
_COPIES_READ = 8
_NATS_LIMIT = 1_000_000

# An image with n faces has n rows, so rows // n counts images without a set of their names. Strata part its faces.
_COUNTS = """
SELECT coalesce(len(resampled), 0) > 0 AS apart, status, decision, face_decision, face_count,
  count(*) AS lines, count(face_id) AS faces, count(log_likelihood) AS scored
FROM photographs GROUP BY ALL"""
_GROUPS = """
WITH counted AS (
  SELECT coalesce(len(resampled), 0) > 0 AS apart, face_count,
    coalesce(CASE $1 WHEN 'source' THEN source WHEN 'camera' THEN camera ELSE stratum END, '') AS name,
    count(*) AS lines, count(log_likelihood) AS faces,
    count(*) FILTER (face_decision = 'flag' AND log_likelihood IS NOT NULL) AS hits,
    count(DISTINCT CASE WHEN $1 = 'stratum' THEN shard::BIGINT * 4294967296 + position END) AS parted
  FROM photographs WHERE status = 'scored' GROUP BY ALL
), summed AS (
  SELECT apart, name, sum(CASE WHEN $1 = 'stratum' THEN parted ELSE lines // greatest(face_count, 1) END) AS images,
    sum(faces) AS faces, sum(hits) AS hits FROM counted GROUP BY ALL
), ranked AS (
  SELECT *, row_number() OVER (PARTITION BY apart ORDER BY faces DESC, name) AS row_rank FROM summed
)
SELECT apart, CASE WHEN row_rank <= $2 AND faces >= $3 THEN name END AS name, count(*) AS groups,
  sum(images) AS images, sum(faces) AS faces, sum(hits) AS hits
FROM ranked GROUP BY 1, 2"""
_LIKELIHOODS = """
SELECT coalesce(len(resampled), 0) > 0 AS apart, count(*) AS faces,
  CAST(floor(greatest(least(log_likelihood, $1), -$1)) AS INTEGER) AS nat
FROM photographs WHERE log_likelihood IS NOT NULL GROUP BY ALL"""
_THRESHOLD = "SELECT max(log_likelihood) AS nats FROM photographs WHERE p_value <= $1"
_LEAST_LIKELY = """
SELECT shard, content_id, source, uri, span_offset, span_size, sha256, media_type, camera, jpeg_quality, resampled,
  face_id, face_x, face_y, face_width, face_height, log_likelihood, p_value, face_decision
FROM photographs WHERE log_likelihood IS NOT NULL AND (coalesce(len(resampled), 0) > 0) = $1
ORDER BY log_likelihood, content_id, face_id LIMIT $2"""


_CLIP_COUNTS = """
SELECT count(*) AS clips, count(*) FILTER (status = 'no_face') AS no_face,
  count(*) FILTER (status = 'failed') AS unscored, count(*) FILTER (damage IS NOT NULL) AS damaged,
  coalesce(sum(duration_s), 0) AS duration_s
FROM (SELECT any_value(status) AS status, any_value(clip_damage) AS damage, any_value(clip_duration_s) AS duration_s
  FROM results WHERE clip_frames IS NOT NULL GROUP BY shard, position)"""
_TRACK_COUNTS = """
SELECT coalesce(face_decision, '') AS decision, count(face_id) AS tracks, count(log_likelihood) AS scored
FROM results WHERE clip_frames IS NOT NULL GROUP BY ALL"""
_TRACKS = """
SELECT content_id, sha256, face_id, log_likelihood, p_value, stratum, calibrated_by, face_decision,
  track_start_s, track_end_s, track_frames, track_scored, track_least_typical_s, track_least_typical_log_likelihood
FROM results WHERE clip_frames IS NOT NULL AND log_likelihood IS NOT NULL
ORDER BY log_likelihood, content_id, face_id LIMIT $1"""

# One image may have several rows, and several statements of one source, kind and validity.
_STATEMENTS = """
SELECT said.source AS source, said.kind AS kind, said.validity AS validity, count(DISTINCT image) AS images
FROM (SELECT shard::BIGINT * 4294967296 + position AS image, unnest(provenance) AS said FROM results)
GROUP BY ALL ORDER BY images DESC, source, kind, validity"""
_STATING = """
SELECT count(DISTINCT image) AS read, count(DISTINCT image) FILTER (len(provenance) > 0) AS stating,
  count(DISTINCT image) FILTER (list_contains(reason_codes, $1)) AS generated
FROM (SELECT shard::BIGINT * 4294967296 + position AS image, provenance, reason_codes FROM results
  WHERE provenance IS NOT NULL)"""


def summarise(folder: Path) -> Summary:
    """Return the summary of the run in `folder`; of an unfinished run, that of its committed shards.

    Raises:
        UsageError: `folder` is not a run.
        RunBroken: a file that a mark names cannot be read, or the counts of marks and files differ.
    """
    run, marks = read_run(folder), list(read_marks(folder))
    with open_tables() as tables:
        tables.add_run(folder, marks)
        tables.run("CREATE VIEW photographs AS SELECT * FROM results WHERE clip_frames IS NULL")
        facts = find_facts(folder / "_plan")
        left_out = sum((Counter(mark.left_out) for mark in marks), facts.left_out if facts else Counter[str]())
        return _summarise(tables, run, marks, left_out)


def _summarise(tables: Tables, run: RunFile, marks: Sequence[CommitMark], left_out: Counter[str]) -> Summary:
    counts = tables.fetch(_COUNTS)
    groups = {
        kind: tables.fetch(_GROUPS, [kind, MAX_GROUPS, MIN_GROUP_FACES]) for kind in ("source", "camera", "stratum")
    }
    reasons = tables.fetch("SELECT reason, count(*) AS images FROM errors GROUP BY ALL ORDER BY images DESC, reason")
    main, apart = (_fill_column(tables, counts, groups, apart=apart) for apart in (False, True))
    failed = sum(row["images"] for row in reasons)
    clips = _fill_clips(tables)
    images = main.images + apart.images + clips.clips + failed
    stated = sum(mark.images for mark in marks), sum(mark.faces for mark in marks), sum(mark.failed for mark in marks)
    counted = images, main.faces + apart.faces + clips.tracks, failed
    if stated != counted:
        message = f"the commit marks state (images, faces, failed) {stated}, their files contain {counted}: scan again"
        raise RunBroken(message)
    return Summary(
        bundle_id=run.bundle_id,
        bundle_digest=run.bundle_digest,
        policy_id=run.policy.policy_id,
        policy_version=run.policy.version,
        promised_flag_share=run.policy.flag_false_alarm_rate,
        promised_review_share=run.policy.review_false_alarm_rate,
        policy_note=run.policy_note,
        evaluation=run.evaluation,
        shards_planned=run.shards,
        shards_committed=len(marks),
        complete=len(marks) == run.shards,
        images=images,
        failed=failed,
        failed_by_reason={row["reason"] or "": row["images"] for row in reasons},
        left_out=dict(sorted(left_out.items())),
        marks=_count_marks(tables),
        main=main,
        apart=apart,
        clips=clips,
        statements=StatementFigures(
            **tables.fetch(_STATING, [Reason.STATED_GENERATED.value])[0],
            counts=tuple(StatementCount(**row) for row in tables.fetch(_STATEMENTS)),
        ),
        histogram=_fill_histogram(tables, run),
        throughput=_measure_throughput(marks),
    )


def _fill_column(
    tables: Tables, counts: Sequence[Mapping[str, Any]], groups: Mapping[str, list[dict[str, Any]]], *, apart: bool
) -> FigureColumn:
    rows = [row for row in counts if row["apart"] is apart]
    lines: Counter[tuple[str, str | None, int]] = Counter()  # rows by their image's status, decision and face count
    for row in rows:
        lines[row["status"], row["decision"], row["face_count"] or 0] += row["lines"]
    images: Counter[tuple[str, str | None]] = Counter()
    for (status, decision, faces), number in lines.items():
        images[status, decision] += number // max(faces, 1)
    decisions = Counter({decision.value: 0 for decision in Decision})
    for row in rows:
        if row["face_decision"]:
            decisions[row["face_decision"]] += row["faces"]
    hits = sum(row["scored"] for row in rows if row["face_decision"] == Decision.FLAG)
    scored = sum(row["scored"] for row in rows)
    return FigureColumn(
        images=images.total(),
        no_face=sum(number for (status, _), number in images.items() if status == Status.NO_FACE),
        unscored=sum(number for (status, _), number in images.items() if status not in {Status.SCORED, Status.NO_FACE}),
        image_decisions={
            decision.value: sum(n for (_, found), n in images.items() if found == decision) for decision in Decision
        },
        faces=sum(row["faces"] for row in rows),
        scored_faces=scored,
        decisions=dict(decisions),
        flagged=find_share(hits, scored, sum(n for (status, _), n in images.items() if status == Status.SCORED)),
        by_source=read_groups(row for row in groups["source"] if row["apart"] is apart),
        by_camera=read_groups(row for row in groups["camera"] if row["apart"] is apart),
        by_stratum=read_groups(row for row in groups["stratum"] if row["apart"] is apart),
        least_likely=_find_least_likely(tables, apart=apart),
    )


def _find_least_likely(tables: Tables, *, apart: bool) -> tuple[Face, ...]:
    """Return the least likely faces, each once: an archive may contain the same file many times."""
    rows = tables.fetch(_LEAST_LIKELY, [apart, FACES_SHOWN * _COPIES_READ])
    return tuple(Face(**{**row, "resampled": row["resampled"] or ()}) for row in _merge_copies(rows))


def _fill_clips(tables: Tables) -> ClipFigures:
    decisions = Counter({decision.value: 0 for decision in Decision})
    counts = tables.fetch(_TRACK_COUNTS)
    for row in counts:
        if row["decision"]:
            decisions[row["decision"]] += row["tracks"]
    return ClipFigures(
        **tables.fetch(_CLIP_COUNTS)[0],
        tracks=sum(row["tracks"] for row in counts),
        scored_tracks=sum(row["scored"] for row in counts),
        decisions=dict(decisions),
        least_likely=tuple(
            Track(**{name: value for name, value in row.items() if name != "sha256"})
            for row in _merge_copies(tables.fetch(_TRACKS, [FACES_SHOWN * _COPIES_READ]))
        ),
    )


def _merge_copies(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return at most `FACES_SHOWN` faces, each with the number of its `copies` in other files of the same bytes."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for row in rows:
        known = found.setdefault((row["sha256"] or row["content_id"], row["face_id"]), row | {"copies": -1})
        known["copies"] += 1
    return list(found.values())[:FACES_SHOWN]


def _count_marks(tables: Tables) -> dict[str, int]:
    """Return how many images have each mark; an image may have several."""
    images: dict[str, int] = defaultdict(int)
    for row in tables.fetch("SELECT resampled, face_count, count(*) AS lines FROM photographs GROUP BY ALL"):
        for mark in row["resampled"] or ():
            images[mark] += row["lines"] // max(row["face_count"] or 0, 1)
    return dict(sorted(images.items()))


def _fill_histogram(tables: Tables, run: RunFile) -> Histogram:
    counts: dict[bool, Counter[int]] = defaultdict(Counter)
    for row in tables.fetch(_LIKELIHOODS, [_NATS_LIMIT]):
        counts[row["apart"]][row["nat"]] += row["faces"]
    flag, review = (
        tables.fetch(_THRESHOLD, [rate])[0]["nats"]
        for rate in (run.policy.flag_false_alarm_rate, run.policy.review_false_alarm_rate)
    )
    edges = choose_edges(counts[False] + counts[True], [nats for nats in (flag, review) if nats is not None])
    return Histogram(
        edges_nats=edges,
        main=_fill_bins(counts[False], edges),
        apart=_fill_bins(counts[True], edges),
        flag_nats=flag,
        review_nats=review,
    )


def choose_edges(counts: Counter[int], shown: Sequence[float]) -> tuple[float, ...]:
    """Return the edges in nats of at most `BINS` bins of a round width that cover all but the tails, and `shown`.

    Args:
        counts: faces by log-likelihood in nats, rounded down to integers.
        shown: log-likelihoods that the axis must include.
    """
    if not counts:
        return (0.0, 1.0)
    total, below = counts.total(), 0
    low, high = min(counts), max(counts)
    for nat in sorted(counts):
        if below <= TAIL * total:
            low = nat
        below += counts[nat]
        if below < (1 - TAIL) * total:
            high = nat + 1
    low, high = min([low, *map(math.floor, shown)]), max([high, low + 1, *map(math.ceil, shown)])
    width = next(w for power in range(8) for w in (10**power, 2 * 10**power, 5 * 10**power) if (high - low) / w < BINS)
    first, last = math.floor(low / width), math.ceil(high / width)
    return tuple(float(step * width) for step in range(first, max(last, first + 1) + 1))


def _fill_bins(counts: Counter[int], edges: Sequence[float]) -> tuple[int, ...]:
    bins = [0] * (len(edges) - 1)
    for nat, faces in counts.items():
        bins[min(max(int((nat - edges[0]) // (edges[1] - edges[0])), 0), len(bins) - 1)] += faces
    return tuple(bins)


def _measure_throughput(marks: Sequence[CommitMark]) -> Throughput:
    busy_s = 0.0
    until = datetime.min.replace(tzinfo=UTC)
    intervals = sorted((each for mark in marks for each in mark.work_intervals), key=lambda each: each.started_at)
    for interval in intervals:
        start = max(until, interval.started_at)
        until = max(start, interval.finished_at)
        busy_s += (until - start).total_seconds()
    stages: dict[str, float] = defaultdict(float)
    for mark in marks:
        for stage, seconds in mark.stage_s.items():
            stages[stage] += seconds
    images = sum(mark.images for mark in marks)
    return Throughput(
        shards=len(marks),
        busy_s=busy_s,
        images_per_s=images / busy_s if busy_s else None,
        stage_s=dict(stages),
        slowest_stage=max(stages, key=lambda stage: stages[stage], default=None),
    )
