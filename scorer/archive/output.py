"""Turns results into the rows of a shard's Parquet files. Of an image only its rows are kept, never its bytes."""

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ingest.provenance.statements import describe_statements
from ingest.reasons import Reason
from scorer.archive.items import Item
from scorer.archive.rows import ERRORS, FEATURES, RESULTS
from scorer.messages import ScoreResult, TrackResult

# The image itself may be good, so a retry may score it.
RETRYABLE = frozenset({Reason.UNREADABLE, Reason.TIMED_OUT, Reason.OUT_OF_MEMORY, Reason.ENGINE_FAILED})
CHUNK_ROWS = 1024  # a row takes ten times as much memory in Python as in Arrow


@dataclass(slots=True)
class RowBuffer:
    """Rows of one schema, converted to Arrow chunk by chunk."""

    schema: pa.Schema
    chunks: list[pa.RecordBatch] = field(default_factory=list)
    waiting: list[dict[str, Any]] = field(default_factory=list)

    def add(self, row: dict[str, Any]) -> None:
        """Add one row; columns that it lacks are null."""
        self.waiting.append(row)
        if len(self.waiting) == CHUNK_ROWS:
            self._convert()

    def to_table(self) -> pa.Table:
        """Return all rows."""
        self._convert()
        return pa.Table.from_batches(self.chunks, self.schema)

    def _convert(self) -> None:
        if self.waiting:
            self.chunks.append(pa.RecordBatch.from_pylist(self.waiting, self.schema))
            self.waiting = []


@dataclass(slots=True)
class ShardOutput:
    """The rows and counts of a shard's images so far.

    Attributes:
        features: one row for each scored face, where the run keeps features.
        counts: images, faces, no_face, failed, retryable, and images by decision: flag, review, pass.
        stage_s: seconds that each stage was busy, over all threads.
        left_out: what the shard's tar or manifest contains besides images, by `LeftOut`.
    """

    shard: int
    results: RowBuffer = field(default_factory=lambda: RowBuffer(RESULTS))
    errors: RowBuffer = field(default_factory=lambda: RowBuffer(ERRORS))
    features: RowBuffer = field(default_factory=lambda: RowBuffer(FEATURES))
    counts: Counter[str] = field(default_factory=Counter)
    stage_s: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    left_out: Counter[str] = field(default_factory=Counter)

    def add(
        self, position: int, item: Item, result: ScoreResult, features: Mapping[str, NDArray[np.float32]] | None = None
    ) -> dict[str, int]:
        """Add one image's rows: one a face, one without a face, or one error; return its counts.

        Faces that are too small or cut off are also rows of results: a person has to review them.
        """
        counted = _count_outcome(item, result)
        self.counts.update(counted)
        image = {
            "shard": self.shard,
            "position": position,
            "content_id": item.content_id,
            "source": item.source,
            "uri": item.uri,
            "status": result.status.value,
            "sha256": result.image.sha256,
            "scored_at": result.scored_at,
        }
        if result.failed:
            self.errors.add(image | {"reason": result.reason_codes[0].value, "detail": result.detail})
            return counted
        image |= _list_image_columns(item, result)
        for face in _list_face_columns(result) or [{}]:
            self.results.add(image | face)
        for face_id, numbers in (features or {}).items():
            self.features.add({"shard": self.shard, "position": position, "face_id": face_id, "features": numbers})
        return counted


def _count_outcome(item: Item, result: ScoreResult) -> dict[str, int]:
    if result.failed:
        return {"images": 1, "failed": 1, "retryable": int(result.reason_codes[0] in RETRYABLE and not item.problem)}
    return {"images": 1, "faces": len(result.faces), result.decision.value if result.decision else "no_face": 1}


def _list_image_columns(item: Item, result: ScoreResult) -> dict[str, Any]:
    return {
        "schema_version": result.schema_version,
        "result_id": str(result.result_id),
        "span_offset": item.span.offset if item.span else None,
        "span_size": item.span.size if item.span else None,
        "decision": result.decision.value if result.decision else None,
        "score": result.score,
        "reason_codes": [reason.value for reason in result.reason_codes],
        "face_count": result.face_count,
        "width": result.image.width,
        "height": result.image.height,
        "media_type": result.image.media_type,
        "camera": result.image.camera,
        "jpeg_quality": result.image.jpeg_quality,
        "exif_width": result.image.exif_width,
        "exif_height": result.image.exif_height,
        "resampled": [mark.value for mark in result.image.resampled or ()],
        "bundle_id": result.model.bundle_id,
        "bundle_digest": result.model.bundle_digest,
        "policy_id": result.policy.policy_id,
        "policy_version": result.policy.version,
        "provenance": None if result.provenance is None else describe_statements(result.provenance),
    } | _list_clip_columns(result)


def _list_clip_columns(result: ScoreResult) -> dict[str, Any]:
    if result.clip is None:
        return {}
    return {
        "clip_duration_s": result.clip.duration_s,
        "clip_frames": result.clip.sampled_count,
        "clip_damage": result.clip.damage,
    }


def _list_face_columns(result: ScoreResult) -> list[dict[str, Any]]:
    tracks = {track.face_id: _list_track_columns(track) for track in result.tracks}
    return [
        {
            "face_id": face.face_id,
            **dict(zip(("face_x", "face_y", "face_width", "face_height"), face.box, strict=True)),
            "detector_confidence": face.detector_confidence,
            "log_likelihood": face.log_likelihood,
            "p_value": face.p_value,
            "face_score": face.score,
            "face_decision": face.decision.value,
            "face_reason_codes": [reason.value for reason in face.reason_codes],
            "face_px": face.quality["face_px"],
            "stratum": face.stratum,
            "calibrated_by": face.calibrated_by,
            **tracks.get(face.face_id, {}),
        }
        for face in result.faces
    ]


def _list_track_columns(track: TrackResult) -> dict[str, Any]:
    least = track.least_typical
    return {
        "track_start_s": track.start_s,
        "track_end_s": track.end_s,
        "track_frames": track.frame_count,
        "track_scored": track.scored_count,
        "track_median_s": track.median_time_s,
        "track_least_typical_s": least.time_s if least else None,
        "track_least_typical_log_likelihood": least.log_likelihood if least else None,
    }
