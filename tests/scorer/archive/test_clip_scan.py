"""`scan` of clips: rows of tracks have the figures of `score`."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import skimage.data
from PIL import Image

from scorer.archive.report.run_page import render_report
from scorer.archive.report.summary import summarise
from scorer.archive.rows import ADDED_RESULTS
from scorer.local_scorer import LocalScorer
from scorer.messages import ImageSource, ScoreRequest, ScoreResult
from tests.clips import make_animation, make_clip
from tests.scorer.archive.real_scan import scan
from tests.scorer.archive.report.written_run import WrittenImage, write_run


def make_files() -> dict[str, bytes]:
    """Return a photograph, a video, an animation, a truncated video and one without a face."""
    portrait = Image.fromarray(skimage.data.astronaut())
    moved = [portrait.transform(portrait.size, Image.Transform.AFFINE, (1, 0, n, 0, 1, 0)) for n in range(6)]
    photograph = io.BytesIO()
    portrait.save(photograph, "JPEG", quality=95)
    clip = make_clip(moved * 10)
    return {
        "a.jpg": photograph.getvalue(),
        "b.mp4": clip,
        "c.GIF": make_animation(moved, "GIF", [100] * 6),
        "d.mov": clip[:200],
        "e.webm": make_clip([Image.new("RGB", (320, 240), "grey")] * 3, "vp9"),
    }


def score(scorer: LocalScorer, data: bytes) -> ScoreResult:
    """Return the result of `score`."""
    image = ImageSource.model_construct(uri=None, data=data, sha256=None)
    return next(scorer.score([ScoreRequest(request_id="a", content_id="a", image=image)]))


def check_row(row: dict[str, Any], result: ScoreResult) -> None:
    """Check the row of a clip with one track against its result."""
    (track,), (face,) = result.tracks, result.faces
    assert result.clip
    assert track.least_typical
    assert (row["face_id"], row["log_likelihood"], row["p_value"]) == ("0", face.log_likelihood, face.p_value)
    assert {name: row[name] for name in ADDED_RESULTS} == {
        "clip_duration_s": result.clip.duration_s,
        "clip_frames": 5,
        "clip_damage": None,
        "track_start_s": track.start_s,
        "track_end_s": track.end_s,
        "track_frames": 5,
        "track_scored": 5,
        "track_median_s": track.median_time_s,
        "track_least_typical_s": track.least_typical.time_s,
        "track_least_typical_log_likelihood": track.least_typical.log_likelihood,
        "provenance": None,
    }


@pytest.mark.slow
def test_clips_in_folders_and_tars(root: Path, tmp_path: Path, local_scorer: LocalScorer) -> None:
    """Each file has a row or an error; clips count apart, with their tracks on the page."""
    files = make_files()
    (tmp_path / "in").mkdir()
    for name, data in files.items():
        (tmp_path / "in" / name).write_bytes(data)
    with tarfile.open(tmp_path / "t.tar", "w") as tar:
        tar.add(tmp_path / "in", "in")
    for source in ("in", "t.tar"):
        run = tmp_path / f"run-{source}"
        done = scan(root, tmp_path / source, run, "--max-failed", 1)
        assert done.returncode == 0, done.stderr
        read = [pq.ParquetFile(path).read() for path in sorted((run / "results").iterdir())]
        rows = {Path(row["content_id"]).name: row for row in pa.concat_tables(read).to_pylist()}
        assert sorted(rows) == ["a.jpg", "b.mp4", "c.GIF", "e.webm"]
        assert all(rows["a.jpg"][name] is None for name in ADDED_RESULTS)
        for name in ("b.mp4", "c.GIF"):
            check_row(rows[name], score(local_scorer, files[name]))
        assert (rows["e.webm"]["status"], rows["e.webm"]["track_frames"], rows["e.webm"]["clip_frames"] > 0) == (
            "no_face",
            None,
            True,
        )
        clips = json.loads((run / "summary.json").read_text())["clips"]
        assert (clips["clips"], clips["no_face"], clips["tracks"], clips["scored_tracks"]) == (3, 1, 2, 2)
        assert {track["content_id"].rsplit("/", 1)[1] for track in clips["least_likely"]} == {"b.mp4", "c.GIF"}
        page = (run / "report.html").read_text()
        assert "The least likely tracks" in page
        assert "b.mp4" in page


def test_rows_of_an_older_release_are_images(tmp_path: Path) -> None:
    """Files without the columns of clips are read, also beside files that have them."""
    track = {name: 1.0 for name in ADDED_RESULTS if name.startswith("track_")} | {"clip_frames": 5}
    old, new = [WrittenImage("a.jpg", (0.5, 0.2))], [WrittenImage("b.mp4", (0.3,), marks=("thumbnail",), facts=track)]
    run = write_run(tmp_path, [old, new])
    path = run / "results" / "part-00000.parquet"
    pq.write_table(pq.ParquetFile(path).read().drop_columns(sorted(ADDED_RESULTS)), path)
    summary = summarise(run)
    assert (summary.main.faces, summary.apart.faces, summary.clips.tracks) == (2, 0, 1)
    assert "b.mp4" in render_report(summary, lambda _: None)
    only = write_run(tmp_path / "old", [old])
    path = only / "results" / "part-00000.parquet"
    pq.write_table(pq.ParquetFile(path).read().drop_columns(sorted(ADDED_RESULTS)), path)
    summary = summarise(only)
    assert (summary.main.faces, summary.clips.clips, pc.sum(pa.array(summary.histogram.main)).as_py()) == (2, 0, 2)
    assert "Clips" not in render_report(summary, lambda _: None)
