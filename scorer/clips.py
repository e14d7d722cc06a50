"""Tracks: the faces of a clip, linked over its sampled frames.

A face continues the track whose last box overlaps it most, by intersection over union, if that is at least `MIN_IOU`
and the track was seen in one of the two frames before. Pairs are taken greedily, the largest overlap first. Nothing is
recognised: a face that moves far between two samples, or a cut, starts another track.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from ingest.clips import ClipFacts, ClipSettings, SampledFrame
from ingest.probe import EncodedFace
from ingest.reasons import Reason, Unscorable
from ingest.spec import FaceBox

MIN_IOU = 0.3
MAX_MISSED = 1  # sampled frames in a row in which a track may be missing
MAX_TRACKS = 128


@dataclass(frozen=True, slots=True)
class Shot:
    """Where a face of a clip was seen.

    Attributes:
        frame: position of the sampled frame.
        time_s: of the frame.
        width, height: of the upright frame.
        window_px: shorter side of the window that was cut, in pixels of the frame.
        crop: the face as it was cut.
    """

    frame: int
    time_s: float
    width: int
    height: int
    window_px: int
    crop: EncodedFace


@dataclass(frozen=True, slots=True)
class LocatedClip:
    """A clip whose faces were found: what it is, how it was sampled, the times of the frames, and its damage."""

    facts: ClipFacts
    settings: ClipSettings
    times_s: tuple[float, ...]
    damage: Unscorable | None


def link_faces(frames: Sequence[SampledFrame]) -> list[list[tuple[int, int]]]:
    """Return the tracks: (position of a frame, position of the face in it), in order of time.

    Raises:
        Unscorable: too_many_faces.
    """
    tracks: list[list[tuple[int, int]]] = []
    for number, frame in enumerate(frames):
        open_tracks = [at for at, track in enumerate(tracks) if number - track[-1][0] <= 1 + MAX_MISSED]
        pairs = sorted(
            (-measure_iou(_find_box(frames, tracks[at][-1]), face.box), at, index)
            for at in open_tracks
            for index, face in enumerate(frame.faces)
        )
        linked: dict[int, int] = {}
        for negative, at, index in pairs:
            if -negative >= MIN_IOU and at not in linked.values() and index not in linked:
                linked[index] = at
        for index in range(len(frame.faces)):
            if index in linked:
                tracks[linked[index]].append((number, index))
            else:
                tracks.append([(number, index)])
    if len(tracks) > MAX_TRACKS:
        message = f"the clip's faces form {len(tracks)} tracks; the limit is {MAX_TRACKS}: score a shorter part"
        raise Unscorable(Reason.TOO_MANY_FACES, message)
    return tracks


def measure_iou(one: FaceBox, other: FaceBox) -> float:
    """Return the intersection over union of two boxes."""
    width = min(one.x + one.width, other.x + other.width) - max(one.x, other.x)
    height = min(one.y + one.height, other.y + other.height) - max(one.y, other.y)
    shared = max(0.0, width) * max(0.0, height)
    return shared / (one.area + other.area - shared)


def _find_box(frames: Sequence[SampledFrame], place: tuple[int, int]) -> FaceBox:
    return frames[place[0]].faces[place[1]].box
