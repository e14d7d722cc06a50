"""From the scored faces of a clip to one result for each track.

The log-likelihood of a track is the lower median of its scored faces, so that it is the face of one sampled frame; the
stratum, the box and the quality are that face's.

A bundle whose calibration has the stratum `video` or `small_video` compares the median with those of held-out tracks:
the dependence of frames is then the same on both sides, if the clips are sampled alike. Otherwise its p-value is taken
against photographs, as if the face were a photograph's, and not calibrated, for two reasons:

* A video encoder erases what cameras leave.
* Frames depend on each other. If each face alone had a valid p-value, the median one would be exact for identical
  frames and conservative for independent ones; under any dependence of K frames, K / ceil(K / 2) <= 2 times the median
  p-value is valid (Vovk and Wang, 2020). So for faces that are like photographs, false alarms are at most twice the
  stated rate.

So each such track has the reason `uncalibrated_video`, and its decision is at most `review`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from ingest.reasons import Reason, Unscorable
from scorer.clips import LocatedClip, Shot
from scorer.locate import LocatedFace
from scorer.messages import (
    CalibratedBy,
    ClipResult,
    Decision,
    FrameFace,
    FrameResult,
    LeastTypical,
    TrackResult,
)

UNCALIBRATED = Unscorable(
    Reason.UNCALIBRATED_VIDEO,
    "the bundle's calibration has too few clips of this kind: p-values compare the median face of each track with "
    "photographs, and decide at most review",
)


@dataclass(frozen=True, slots=True)
class Score:
    """The score of one face."""

    log_likelihood: float
    p_value: float
    calibrated_by: CalibratedBy
    high_band: float


Row = tuple[LocatedFace, Score | Unscorable]


def group_tracks(rows: Sequence[Row]) -> list[list[Row]]:
    """Return the faces of each track, in order of time; `rows` have the tracks one after the other."""
    return [list(track) for _, track in groupby(rows, key=lambda row: row[0].face_id)]


def find_median(track: Sequence[Row]) -> Row:
    """Return the row with the lower median log-likelihood; without a score, the row with the largest face."""
    scored = _sort_scored(track)
    return scored[(len(scored) - 1) // 2] if scored else max(track, key=lambda row: row[0].box.short_side)


def cap_decision(decision: Decision) -> Decision:
    """Return the decision for a track, whose p-value is not calibrated: at most `review`."""
    return Decision.REVIEW if decision is Decision.FLAG else decision


def describe_clip(clip: LocatedClip, tracks: Sequence[Sequence[Row]]) -> dict[str, Any]:
    """Return the fields of a `ScoreResult` that only a clip has."""
    facts, settings = clip.facts, clip.settings
    frames: list[list[FrameFace]] = [[] for _ in clip.times_s]
    for face, outcome in (row for track in tracks for row in track):
        seen = FrameFace(face_id=face.face_id, box=face.box.as_tuple(), log_likelihood=_find_likelihood(outcome))
        frames[_find_shot(face).frame].append(seen)
    return {
        "clip": ClipResult(
            codec=facts.codec,
            duration_s=facts.duration_s,
            frame_count=facts.frames,
            sampled_count=len(frames),
            sampling=settings.sampling,
            frames_per_second=settings.frames_per_second,
            hdr=facts.hdr,
            damage=clip.damage.detail if clip.damage else None,
        ),
        "tracks": tuple(map(_describe_track, tracks)),
        "frames": tuple(
            FrameResult(time_s=time_s, faces=tuple(faces)) for time_s, faces in zip(clip.times_s, frames, strict=True)
        ),
    }


def _describe_track(track: Sequence[Row]) -> TrackResult:
    scored, least = _sort_scored(track), None
    if scored:
        face, outcome = scored[0]
        least = LeastTypical(
            time_s=_find_shot(face).time_s, box=face.box.as_tuple(), log_likelihood=outcome.log_likelihood
        )
    return TrackResult(
        face_id=track[0][0].face_id,
        start_s=_find_shot(track[0][0]).time_s,
        end_s=_find_shot(track[-1][0]).time_s,
        frame_count=len(track),
        scored_count=len(scored),
        median_time_s=_find_shot(find_median(track)[0]).time_s if scored else None,
        least_typical=least,
    )


def _sort_scored(track: Sequence[Row]) -> list[tuple[LocatedFace, Score]]:
    scored = [(face, outcome) for face, outcome in track if isinstance(outcome, Score)]
    return sorted(scored, key=lambda row: (row[1].log_likelihood, _find_shot(row[0]).time_s))


def _find_likelihood(outcome: Score | Unscorable) -> float | None:
    return outcome.log_likelihood if isinstance(outcome, Score) else None


def _find_shot(face: LocatedFace) -> Shot:
    if face.shot is None:
        message = "a face of a clip must have been cut"
        raise AssertionError(message)
    return face.shot
