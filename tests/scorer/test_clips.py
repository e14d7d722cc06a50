"""Clips are scored as their frames are, tracks are linked, and no track decides more than review."""

import json
from collections.abc import Mapping
from dataclasses import replace
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.data
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageColor

from ingest.clips import (
    MAX_FACES,
    MAX_FRAMES,
    ClipFace,
    ClipFacts,
    ClipSettings,
    SampledClip,
    SampledFrame,
    parse_sample,
)
from ingest.probe import EncodedFace, ImageInfo, probe_image
from ingest.reasons import Reason, Unscorable
from ingest.spec import FaceBox, Window
from scorer.clips import MAX_TRACKS, LocatedClip, Shot, link_faces, measure_iou
from scorer.commands.annotate import COLOURS, PictureFolder
from scorer.commands.contact_sheet import describe_track
from scorer.decide import Calibration, Policy, decide_face
from scorer.local_scorer import LocalScorer
from scorer.locate import LocatedFace, LocatedImage
from scorer.messages import (
    CalibratedBy,
    Decision,
    ImageSource,
    RequestedFace,
    ScoreRequest,
    ScoreResult,
    Status,
)
from scorer.result_ids import result_id
from scorer.score import score_batch
from scorer.strata import Stratum
from scorer.tracks import Score, cap_decision, describe_clip, find_median, group_tracks
from tests.clips import ANIMATIONS, make_animation, make_clip

CUT = EncodedFace(b"", ImageInfo("image/png", 224, 224, 1, ""), Window(0, 0, 224, 224))


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    """The portrait, moved to the left by one pixel a frame."""
    portrait = Image.fromarray(skimage.data.astronaut())
    return [portrait.transform(portrait.size, Image.Transform.AFFINE, (1, 0, n, 0, 1, 0)) for n in range(6)]


def ask(data: bytes, faces: tuple[RequestedFace, ...] | None = None) -> ScoreRequest:
    """Return a request with inline bytes."""
    image = ImageSource.model_construct(uri=None, data=data, sha256=None)
    return ScoreRequest(request_id="a", content_id="a", image=image, faces=faces)


def score(scorer: LocalScorer, *files: bytes) -> list[ScoreResult]:
    """Return the results of files whose faces are to be found."""
    return list(scorer.score(map(ask, files)))


def test_a_frame_scores_as_its_picture(local_scorer: LocalScorer, pictures: list[Image.Image], tmp_path: Path) -> None:
    """Frames of lossless clips have the boxes and the log-likelihoods of the same pictures as PNG, to the last bit."""
    names = [tmp_path / f"{number}.png" for number in range(len(pictures))]
    for name, picture in zip(names, pictures, strict=True):
        picture.save(name)
    stills = {n: result.faces[0] for n, result in enumerate(score(local_scorer, *(n.read_bytes() for n in names)))}
    lossless = [make_clip(pictures, "ffv1"), *(make_animation(pictures, kind, [40] * 6) for kind in ("PNG", "WEBP"))]
    for result in score(local_scorer, *lossless):
        assert len(result.frames) == 5
        for frame in result.frames:
            (face,) = frame.faces
            still = stills[round(frame.time_s * 25)]
            assert (face.box, face.log_likelihood) == (still.box, still.log_likelihood)


def test_the_result_of_a_clip(local_scorer: LocalScorer, pictures: list[Image.Image]) -> None:
    """One track with the median, the least typical frame and the reason; the result survives JSON."""
    (result,) = score(local_scorer, make_clip(pictures * 10))
    assert (result.status, result.reason_codes) == (Status.SCORED, (Reason.UNCALIBRATED_VIDEO,))
    assert result.detail
    assert result.clip
    assert (result.clip.codec, result.clip.frame_count, result.image.media_type) == ("h264", 60, "video/mp4")
    (track,), (face,) = result.tracks, result.faces
    assert face.reason_codes == (Reason.UNCALIBRATED_VIDEO,)
    likelihoods = [each.log_likelihood for frame in result.frames for each in frame.faces]
    assert len(likelihoods) == track.frame_count == track.scored_count == 5
    assert face.log_likelihood == sorted(likelihoods)[2]
    assert track.least_typical
    assert track.least_typical.log_likelihood == min(likelihoods)
    least = next(frame for frame in result.frames if frame.time_s == track.least_typical.time_s)
    assert least.faces[0].log_likelihood == min(likelihoods)
    assert ScoreResult.model_validate_json(result.model_dump_json()) == result


def test_every_kind_of_animation_is_scored(local_scorer: LocalScorer, pictures: list[Image.Image]) -> None:
    """GIF, PNG and WebP are clips; a clip without a face has none."""
    grey = make_clip([Image.new("RGB", (320, 240), "grey")] * 3)
    files = [*(make_animation(pictures, kind, [100] * 6) for kind in ANIMATIONS), grey]
    results = score(local_scorer, *files)
    assert [result.status for result in results] == [Status.SCORED] * 3 + [Status.NO_FACE]
    assert [len(result.tracks) for result in results] == [1, 1, 1, 0]


def test_boxes_do_not_belong_to_a_clip(local_scorer: LocalScorer, pictures: list[Image.Image]) -> None:
    """A request with boxes and a clip is refused with a reason of its own."""
    data = make_clip(pictures)
    box = RequestedFace(face_id="1", box=(180, 70, 95, 110))
    result = local_scorer.score_located(local_scorer.locate(ask(data, (box,)), data))
    assert (result.status, result.reason_codes) == (Status.FAILED, (Reason.BOXES_OF_CLIP,))


def test_damage_may_hide_a_face(local_scorer: LocalScorer, tmp_path: Path) -> None:
    """A truncated clip without a face in what is left is not one without a face."""
    clip = make_clip([Image.effect_noise((320, 240), 60).convert("RGB") for _ in range(40)], path=tmp_path / "a.mp4")
    (result,) = score(local_scorer, clip[: len(clip) // 2])
    assert (result.status, result.reason_codes) == (Status.FAILED, (Reason.TRUNCATED,))


def test_a_track_is_reviewed_at_most() -> None:
    """A p-value that would flag a photograph sends a track to review."""
    policy = Policy()
    decisions = [cap_decision(decide_face(p, policy)) for p in (0.001, 0.03, 0.5)]
    assert decisions == [Decision.REVIEW, Decision.REVIEW, Decision.PASS]


def test_a_stratum_of_clips_decides(local_scorer: LocalScorer, pictures: list[Image.Image]) -> None:
    """With held-out clips in the calibration, a video's track is flagged; an animation's is still reviewed at most."""
    files, model = [make_clip(pictures), make_animation(pictures, "GIF", [40] * 6)], local_scorer.bundle.model
    held_out = np.sort(np.full(200, 1e6))
    calibration = Calibration(held_out, {Stratum.SMALL_VIDEO: held_out, Stratum.VIDEO: held_out})
    located = [(local_scorer.locate(ask(data), data), Policy()) for data in files]
    video, animation = score_batch(located, local_scorer.embedder, replace(model, calibration=calibration))
    assert "(not calibrated for video)" not in describe_track(video.tracks[0], video.faces[0])
    assert "(not calibrated for video)" in describe_track(animation.tracks[0], animation.faces[0])
    assert (video.decision, video.reason_codes, video.detail) == (Decision.FLAG, (), None)
    assert video.faces[0].calibrated_by is CalibratedBy.STRATUM
    assert (animation.decision, animation.reason_codes) == (Decision.REVIEW, (Reason.UNCALIBRATED_VIDEO,))
    assert animation.faces[0].calibrated_by is CalibratedBy.POOLED


def test_an_answer_is_parsed_once(
    local_scorer: LocalScorer, pictures: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The frames that a process returns are checked and read in one step, and the clip has one digest."""
    parsed: list[int] = []
    digests: list[int] = []

    def count_frames(answer: Mapping[str, Any], data: memoryview) -> SampledClip:
        parsed.append(len(data))
        return parse_sample(answer, data)

    def count_digests(data: bytes) -> Any:  # noqa: ANN401 - a digest of hashlib
        digests.append(len(data))
        return sha256(data)

    monkeypatch.setattr("ingest.sandbox.parse_sample", count_frames)
    monkeypatch.setattr("hashlib.sha256", count_digests)
    clip = make_clip(pictures)
    image = local_scorer.locate(ask(clip), clip)
    assert image.info is not None
    assert (len(parsed), digests.count(len(clip)), image.info.sha256) == (1, 1, sha256(clip).hexdigest())


def test_a_lower_rate_is_another_result() -> None:
    """The id of a clip's result depends on the sampling; the id of an image's result is that of older releases."""
    request, policy = ask(b"x"), Policy().describe()
    ids = [
        result_id(request, "0", "d", policy, clip)
        for clip in (None, ClipSettings(), ClipSettings(frames_per_second=2), ClipSettings(sampling="scenes"))
    ]
    assert len(set(ids)) == 4


def row(
    time_s: float, outcome: Score | Unscorable, track: str = "0", frame: int = 0
) -> tuple[LocatedFace, Score | Unscorable]:
    """Return a face of a track with its outcome."""
    return LocatedFace(track, FaceBox(0, 0, 100, 100), 0.9, Shot(frame, time_s, 640, 480, 130, CUT)), outcome


@given(st.lists(st.one_of(st.none(), st.floats(-2000, 2000)), min_size=1, max_size=30))
def test_the_median_is_a_face_of_the_track(values: list[float | None]) -> None:
    """At least half of the scored faces are at least as likely as the median, which is one of them."""
    failure = Unscorable(Reason.FACE_TOO_SMALL, "small")
    outcomes = [failure if v is None else Score(v, 0.5, CalibratedBy.POOLED, float("nan")) for v in values]
    track = [row(float(n), outcome, frame=n) for n, outcome in enumerate(outcomes)]
    (grouped,) = group_tracks(track)
    assert grouped == track
    found = find_median(track)
    assert found in track
    scored = [value for value in values if value is not None]
    assert isinstance(found[1], Score) == bool(scored)
    if isinstance(found[1], Score):
        assert sum(value >= found[1].log_likelihood for value in scored) * 2 > len(scored)
        assert sum(value <= found[1].log_likelihood for value in scored) * 2 >= len(scored)


def test_the_largest_result_of_a_clip_fits() -> None:
    """Tracks and frames at their limits take less than `MAX_RESULT_BYTES` allows for them."""
    clip = LocatedClip(
        ClipFacts("video/mp4", 1, 1, 9999, 299.999999),
        ClipSettings(),
        tuple(n + 0.123456 for n in range(MAX_FRAMES)),
        None,
    )
    box = FaceBox(1234.567890123456, 1234.567890123456, 1234.567890123456, 1234.567890123456)
    rows = [
        (LocatedFace(str(n % MAX_TRACKS), box, 0.9, Shot(n % MAX_FRAMES, 1.123456, 1, 1, 1, CUT)), score_of_length())
        for n in range(MAX_FACES)
    ]
    fields = describe_clip(clip, group_tracks(sorted(rows, key=lambda each: int(each[0].face_id))))
    text = json.dumps(
        {name: [x.model_dump() for x in v] if isinstance(v, tuple) else v.model_dump() for name, v in fields.items()}
    )
    faces_beyond_an_image = (MAX_TRACKS - 64) * 1024
    assert len(text) + faces_beyond_an_image < 384 * 1024


def score_of_length() -> Score:
    """Return a score whose number is as long as numbers get."""
    return Score(-1234.5678901234567, 0.5, CalibratedBy.POOLED, 0.5)


def frame(*boxes: tuple[float, float]) -> SampledFrame:
    """Return a frame with faces of 100 px at the given corners."""
    faces = tuple(ClipFace(FaceBox(x, y, 100, 100), 0.9, 130, CUT) for x, y in boxes)
    return SampledFrame(0.0, 640, 480, faces)


def test_faces_are_linked_by_overlap() -> None:
    """Two faces that pass each other keep their tracks; a missed frame is bridged, two are not; a cut ends a track."""
    assert link_faces([frame((0, 0), (200, 0)), frame((220, 0), (20, 0)), frame((40, 0), (240, 0))]) == [
        [(0, 0), (1, 1), (2, 0)],
        [(0, 1), (1, 0), (2, 1)],
    ]
    assert link_faces([frame((0, 0)), frame(), frame((10, 0))]) == [[(0, 0), (2, 0)]]
    assert link_faces([frame((0, 0)), frame(), frame(), frame((10, 0))]) == [[(0, 0)], [(3, 0)]]
    assert link_faces([frame((0, 0)), frame((300, 300))]) == [[(0, 0)], [(1, 0)]]
    with pytest.raises(Unscorable, match="tracks"):
        link_faces([frame(*((0, 200 * number) for number in range(MAX_TRACKS + 1)))])


@given(st.lists(st.lists(st.tuples(st.integers(0, 300), st.integers(0, 300)), max_size=4), max_size=8))
def test_each_face_is_in_one_track(corners: list[list[tuple[int, int]]]) -> None:
    """Tracks contain every face once, in order of time, never two of one frame, and neighbours overlap."""
    frames = [frame(*each) for each in corners]
    tracks = link_faces(frames)
    places = sorted(place for track in tracks for place in track)
    assert places == [(n, index) for n, each in enumerate(corners) for index in range(len(each))]
    for track in tracks:
        numbers = [number for number, _ in track]
        assert numbers == sorted(set(numbers))
        for (a, i), (b, j) in pairwise(track):
            assert measure_iou(frames[a].faces[i].box, frames[b].faces[j].box) >= 0.3


def test_memory_of_a_clip_is_counted(pictures: list[Image.Image], local_scorer: LocalScorer) -> None:
    """The crops count as bytes in memory; the file is no longer held."""
    data = make_clip(pictures)
    located = local_scorer.locate(ask(data), data)
    assert isinstance(located, LocatedImage)
    assert not located.data
    assert located.size == sum(len(face.shot.crop.data) for face in located.faces if face.shot) > 100_000
    assert all(probe_image(face.shot.crop.data).width == 224 for face in located.faces if face.shot)


def test_a_clip_has_a_contact_sheet(local_scorer: LocalScorer, pictures: list[Image.Image], tmp_path: Path) -> None:
    """The picture of a clip has a cell for each shown face, the least typical one framed in the decision's colour."""
    data = make_clip(pictures)
    (result,) = score(local_scorer, data)
    folder = PictureFolder(tmp_path, None, local_scorer.sandbox, pytest.fail, local_scorer.settings.video)
    folder.add(result, lambda: data)
    assert (folder.written, folder.failed) == (1, 0)
    (file,) = tmp_path.glob("*.jpg")
    page = np.asarray(Image.open(file).convert("RGB")).astype(int)
    colour = np.array(ImageColor.getrgb(COLOURS[result.faces[0].decision]))
    assert (abs(page - colour).max(axis=2) < 40).sum() > 3 * 4 * 150  # a frame of three pixels
    filled = (page[60:180] < 200).any(axis=(0, 2))
    assert filled[: 5 * 168].mean() > 0.9  # five faces
    assert not filled[6 * 168 :].any()
