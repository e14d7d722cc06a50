"""A scan commits every image once, with the figures of `score`."""

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from ingest.reasons import Reason, Unscorable
from scorer.archive import scan as module
from scorer.archive.cleanup import remove_uncommitted_files
from scorer.archive.items import Item, Shard
from scorer.archive.marks import CommitMark, read_mark
from scorer.archive.rows import ERRORS, RESULTS
from scorer.archive.scan import DEFAULT_TIME_LIMITS, Scan, ScanProgress, TimeLimits, make_request
from scorer.errors import ArchiveUnavailable, PayloadRefused, PayloadUnavailable, ScanInterrupted, SourceDamaged
from scorer.local_scorer import LocalScorer
from scorer.messages import RequestedFace
from scorer.mixture import log_likelihood
from tests.scorer.archive.list_plan import FACE, ListPlan, make_archive, read_file

COUNT, SHARD = 23, 6
BOXES = (RequestedFace(face_id="0", box=FACE),)


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory, portrait: bytes) -> Path:
    """A folder of photographs; numbers 3 and 13 are broken."""
    return make_archive(tmp_path_factory.mktemp("archive") / "photographs", portrait, COUNT)


@pytest.fixture
def plan(archive: Path) -> ListPlan:
    """Four shards with given boxes."""
    return ListPlan(archive, SHARD, BOXES)


def read_rows(folder: Path, kind: str = "results") -> list[dict[str, Any]]:
    """Return the rows of all files in `results` or `errors`, in order."""
    return [row for path in sorted((folder / kind).iterdir()) for row in pq.ParquetFile(path).read().to_pylist()]


def read_marks(folder: Path) -> list[CommitMark]:
    """Return the commit marks."""
    marks = [read_mark(folder, int(path.stem)) for path in sorted((folder / "_stats").iterdir())]
    return [mark for mark in marks if mark]


def scan_all(
    plan: ListPlan,
    folder: Path,
    scorer: LocalScorer,
    *,
    read: Callable[[Item], bytes] = read_file,
    limits: TimeLimits = DEFAULT_TIME_LIMITS,
    retry_failed: bool = False,
) -> Scan:
    """Scan every shard."""
    scan = Scan(folder, plan, scorer, read, limits=limits)
    scan.run(range(plan.shard_count), retry_failed=retry_failed)
    return scan


def test_rows_have_the_figures_of_score(plan: ListPlan, tmp_path: Path, local_scorer: LocalScorer) -> None:
    """`score` and `scan` give the same figures, bit for bit, each image once, in order."""
    scan = scan_all(plan, tmp_path, local_scorer)
    items = [item for index in range(plan.shard_count) for item in plan.read_items(plan.read_shard(index))]
    results = {result.content_id: result for result in local_scorer.score(map(make_request, items))}
    rows, errors = read_rows(tmp_path), read_rows(tmp_path, "errors")
    assert [row["content_id"] for row in errors] == ["00003.jpg", "00013.jpg"]
    assert {row["content_id"] for row in errors} | {row["content_id"] for row in rows} == set(results)
    assert len(rows) + len(errors) == COUNT
    assert [row["content_id"] for row in rows] == sorted(row["content_id"] for row in rows)
    for row in rows:
        result = results[row["content_id"]]
        (face,) = result.faces
        assert (row["log_likelihood"], row["p_value"]) == (face.log_likelihood, face.p_value)
        assert (row["result_id"], row["decision"]) == (str(result.result_id), result.decision)
        assert (row["face_x"], row["face_y"], row["face_width"], row["face_height"]) == FACE
        assert 59 <= row["jpeg_quality"] <= 96
        assert row["resampled"][0] == "thumbnail"
    assert {row["reason"] for row in errors} == {"truncated"}
    assert scan.progress.counts["images"] == COUNT
    assert scan.progress.counts["faces"] == len(rows)
    assert not list((tmp_path / "_attempts").iterdir())


def test_features_are_kept_on_request(plan: ListPlan, tmp_path: Path, local_scorer: LocalScorer) -> None:
    """`keep_features` keeps the features of each row's log-likelihood, in files that the marks name."""
    for read in (failing({f"{number:05d}.jpg" for number in range(8, 12)}), read_file):
        scan = Scan(tmp_path / "kept", plan, local_scorer, read, keep_features=True)
        scan.run(range(plan.shard_count), retry_failed=True)
    scan_all(plan, tmp_path / "plain", local_scorer)
    rows = {(row["shard"], row["position"], row["face_id"]): row for row in read_rows(tmp_path / "kept")}
    kept = read_rows(tmp_path / "kept", "features")
    features = np.array([row["features"] for row in kept], np.float32)
    assert features.shape == (COUNT - 2, local_scorer.bundle.manifest.feature_size)
    nats = log_likelihood(features, local_scorer.bundle.model.mixture)
    found = {(row["shard"], row["position"], row["face_id"]): value for row, value in zip(kept, nats, strict=True)}
    assert found == {key: row["log_likelihood"] for key, row in rows.items()}
    assert not (tmp_path / "plain" / "features").exists()
    named = {f"features/{name}": part for mark in read_marks(tmp_path / "kept") for name, part in mark.features.items()}
    assert {path.relative_to(tmp_path / "kept").as_posix() for path in tmp_path.glob("kept/features/*")} == set(named)
    assert sum(part.rows for part in named.values()) == len(kept)
    stray = tmp_path / "kept" / "features" / "part-00001.7.parquet"
    stray.write_bytes(b"left")
    assert remove_uncommitted_files(tmp_path / "kept", range(plan.shard_count)) == 1
    assert not stray.exists()


def test_marks_describe_all_files(plan: ListPlan, tmp_path: Path, local_scorer: LocalScorer) -> None:
    """Each file has the schema and number of rows of its mark, and there is no other."""
    scan_all(plan, tmp_path, local_scorer)
    marks = read_marks(tmp_path)
    named = {f"results/{name}": file for mark in marks for name, file in mark.results.items()}
    named |= {f"errors/{name}": file for mark in marks for name, file in mark.errors.items()}
    found = {
        path.relative_to(tmp_path).as_posix() for kind in ("results", "errors") for path in (tmp_path / kind).iterdir()
    }
    assert set(named) == found
    for path, file in named.items():
        table = pq.ParquetFile(tmp_path / path).read()
        assert len(table) == file.rows
        assert table.schema.equals(RESULTS if path.startswith("results") else ERRORS)
    assert sum(mark.images for mark in marks) == COUNT
    assert [mark.failed for mark in marks] == [1, 0, 1, 0]
    assert all(mark.images == mark.flag + mark.review + mark.passed + mark.no_face + mark.failed for mark in marks)
    assert all(mark.stage_s.keys() == {"read", "locate", "score", "write"} for mark in marks)


def test_an_image_without_a_face_has_a_row(archive: Path, tmp_path: Path, local_scorer: LocalScorer) -> None:
    """An empty list of boxes means no face: one row, without a face's columns."""
    plan = ListPlan(archive, COUNT, ())
    scan_all(plan, tmp_path, local_scorer)
    rows = read_rows(tmp_path)
    assert len(rows) == COUNT
    assert {(row["status"], row["face_id"], row["face_count"], row["decision"]) for row in rows} == {
        ("no_face", None, 0, None)
    }
    assert read_marks(tmp_path)[0].no_face == COUNT


def test_an_image_without_a_scored_face_is_reviewed(archive: Path, tmp_path: Path, local_scorer: LocalScorer) -> None:
    """If no face can be scored, their rows are results, and the image counts as review."""
    boxes = (
        RequestedFace(face_id="small", box=(180, 70, 40, 45)),
        RequestedFace(face_id="cut", box=(-150, 70, 200, 200)),
    )
    plan = ListPlan(archive, COUNT, boxes)
    scan_all(plan, tmp_path, local_scorer)
    rows, (mark,) = read_rows(tmp_path), read_marks(tmp_path)
    assert len(rows) == 2 * COUNT
    assert {(row["status"], row["decision"], row["face_decision"], row["p_value"]) for row in rows} == {
        ("failed", "review", "review", None)
    }
    assert {row["face_id"]: (row["face_reason_codes"], row["face_px"]) for row in rows} == {
        "small": (["face_too_small"], 40.0),
        "cut": (["face_cut_off"], 50.0),
    }
    assert (mark.review, mark.failed, mark.no_face, mark.faces) == (COUNT, 0, 0, 2 * COUNT)


def test_only_missing_shards_are_scanned_again(plan: ListPlan, tmp_path: Path, local_scorer: LocalScorer) -> None:
    """Committed shards are left as they are; one whose mark was deleted is scanned again."""
    scan_all(plan, tmp_path, local_scorer)
    kept = (tmp_path / "results" / "part-00001.parquet").stat().st_mtime_ns
    (tmp_path / "_stats" / "00002.json").unlink()
    again = scan_all(plan, tmp_path, local_scorer)
    assert again.progress.counts["images"] == SHARD
    assert (tmp_path / "results" / "part-00001.parquet").stat().st_mtime_ns == kept
    assert len(read_marks(tmp_path)) == 4


def failing(names: set[str]) -> Callable[[Item], bytes]:
    """Return a reader whose store fails for some images."""

    def read(item: Item) -> bytes:
        if item.content_id in names:
            message = "the store does not answer"
            raise PayloadUnavailable(message)
        return read_file(item)

    return read


def test_only_failed_images_are_retried(plan: ListPlan, tmp_path: Path, local_scorer: LocalScorer) -> None:
    """A retry scores unread images, keeps all other rows, and removes replaced files."""
    whole, folder = tmp_path / "whole", tmp_path / "run"
    scan_all(plan, whole, local_scorer)
    scan_all(plan, folder, local_scorer, read=failing({"00001.jpg", "00002.jpg", "00008.jpg"}))
    assert [mark.retryable for mark in read_marks(folder)] == [2, 1, 0, 0]
    scan_all(plan, folder, local_scorer, read=failing({"00001.jpg"}), retry_failed=True)
    assert [mark.retryable for mark in read_marks(folder)] == [1, 0, 0, 0]
    assert sorted(path.name for path in (folder / "errors").iterdir()) == ["part-00000.1.parquet", "part-00002.parquet"]
    assert {row["content_id"] for row in read_rows(folder, "errors")} == {"00001.jpg", "00003.jpg", "00013.jpg"}
    retried = scan_all(plan, folder, local_scorer, retry_failed=True)
    assert retried.progress.counts["images"] == 1
    assert by_image(read_rows(folder)) == by_image(read_rows(whole))
    assert by_image(read_rows(folder, "errors")) == by_image(read_rows(whole, "errors"))
    different = {"generation", "results", "errors", "stage_s", "work_intervals"}
    intervals = read_marks(folder)[0].work_intervals
    assert len(intervals) == 3
    assert all(before.finished_at <= after.started_at for before, after in pairwise(intervals))
    assert len(json.loads((folder / "_stats" / "00000.json").read_text())["spells"]) == 3
    assert [mark.model_dump(exclude=different) for mark in read_marks(folder)] == [
        mark.model_dump(exclude=different) for mark in read_marks(whole)
    ]


def by_image(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return rows sorted by image, without the time."""
    return [row | {"scored_at": None} for row in sorted(rows, key=lambda row: row["content_id"])]


def test_an_outage_commits_no_errors(
    plan: ListPlan, tmp_path: Path, local_scorer: LocalScorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If many images in a row cannot be read the scan commits none of them, and resumes later."""
    monkeypatch.setattr(module, "OUTAGE_ITEMS", 10)
    with pytest.raises(ArchiveUnavailable, match="10 images in a row"):
        scan_all(plan, tmp_path, local_scorer, read=failing({f"{number:05d}.jpg" for number in range(8, COUNT)}))
    assert [mark.shard for mark in read_marks(tmp_path)] == [0, 1]
    assert not list((tmp_path / "_attempts").iterdir())
    scan_all(plan, tmp_path, local_scorer, retry_failed=True)
    assert len(read_rows(tmp_path)) == COUNT - 2


def test_time_limits_fail_images_and_not_the_run(plan: ListPlan, tmp_path: Path, local_scorer: LocalScorer) -> None:
    """Images after a limit of their own or of their shard are `timed_out`, and retried."""
    release = threading.Event()

    def hang(item: Item) -> bytes:
        if item.content_id == "00002.jpg":
            release.wait(60)
        return read_file(item)

    scan_all(plan, tmp_path / "item", local_scorer, read=hang, limits=TimeLimits(item_s=1))
    release.set()
    late = [row for row in read_rows(tmp_path / "item", "errors") if row["reason"] == "timed_out"]
    assert [row["content_id"] for row in late] == ["00002.jpg"]

    def slow(item: Item) -> bytes:
        time.sleep(0.3 if item.content_id < "00006" else 0)
        return read_file(item)

    scan_all(plan, tmp_path / "shard", local_scorer, read=slow, limits=TimeLimits(shard_s=0.2))
    late = [row for row in read_rows(tmp_path / "shard", "errors") if row["reason"] == "timed_out"]
    assert {row["content_id"] for row in late} >= {"00005.jpg"}
    assert len(read_marks(tmp_path / "shard")) == 4
    scan_all(plan, tmp_path / "shard", local_scorer, retry_failed=True)
    assert len(read_rows(tmp_path / "shard")) == COUNT - 2


def test_a_damaged_tar_is_scored_up_to_the_damage(plan: ListPlan, tmp_path: Path, local_scorer: LocalScorer) -> None:
    """One error row represents what is behind the damage, and is not retried."""

    class DamagedPlan(ListPlan):
        def read_shard(self, index: int) -> Shard:
            return Shard(index, "tar", "file:///photographs.tar", 0, None)

        def read_items(self, shard: Shard, left_out: Counter[str] | None = None) -> Iterator[Item]:
            yield from list(super().read_items(shard, left_out))[:2]
            message = "the tar is truncated"
            raise SourceDamaged(message)

    damaged = DamagedPlan(plan.folder, SHARD, BOXES)
    Scan(tmp_path, damaged, local_scorer, read_file).run([1])
    Scan(tmp_path, damaged, local_scorer, read_file).run([1], retry_failed=True)
    assert [row["position"] for row in read_rows(tmp_path)] == [0, 1]
    assert [(row["position"], row["reason"]) for row in read_rows(tmp_path, "errors")] == [(2, "truncated")]


@pytest.mark.parametrize(
    ("failure", "expected"),
    [(PayloadUnavailable, ArchiveUnavailable), (PayloadRefused, PayloadRefused)],
    ids=["fails", "refuses"],
)
def test_a_tar_that_cannot_be_read_now_is_not_committed(
    plan: ListPlan, tmp_path: Path, local_scorer: LocalScorer, failure: type[Exception], expected: type[Exception]
) -> None:
    """Other shards are committed; the error names the tar, and a refusal is no outage."""

    class LostPlan(ListPlan):
        def read_items(self, shard: Shard, left_out: Counter[str] | None = None) -> Iterator[Item]:
            items = list(super().read_items(shard, left_out))
            yield from items[:2]
            if shard.index == 1:
                message = "tar number 1: the store failed"
                raise failure(message)
            yield from items[2:]

    with pytest.raises(expected, match="tar number 1"):
        scan_all(LostPlan(plan.folder, SHARD, BOXES), tmp_path, local_scorer)
    assert [mark.shard for mark in read_marks(tmp_path)] == [0, 2, 3]
    assert len(list((tmp_path / "results").iterdir())) == 3
    assert not list((tmp_path / "_attempts").iterdir())


def test_a_stopped_scan_is_resumed(plan: ListPlan, tmp_path: Path, local_scorer: LocalScorer) -> None:
    """A stopped scan commits whole shards and counts no crash; the next does the rest."""

    def stop_soon(advance: ScanProgress) -> None:
        if advance.counts["images"] == SHARD + 1:
            scan.stop()

    scan = Scan(tmp_path, plan, local_scorer, read_file, on_advance=stop_soon)
    with pytest.raises(ScanInterrupted, match="same command"):
        scan.run(range(plan.shard_count))
    assert 1 <= len(read_marks(tmp_path)) < 4
    assert len(list((tmp_path / "results").iterdir())) == len(read_marks(tmp_path))
    assert not list((tmp_path / "_attempts").iterdir())
    scan_all(plan, tmp_path, local_scorer)
    assert len(read_rows(tmp_path)) == COUNT - 2


def test_an_image_that_kills_is_skipped(plan: ListPlan, tmp_path: Path, local_scorer: LocalScorer) -> None:
    """After three crashes an image has an error row and is not read; others are scored."""
    (tmp_path / "_attempts").mkdir()
    note = {"starts": 4, "deaths": {"4": 2}, "now": 4}
    (tmp_path / "_attempts" / "00001.json").write_text(json.dumps(note))
    requested = []

    def read(item: Item) -> bytes:
        requested.append(item.content_id)
        return read_file(item)

    scan_all(plan, tmp_path, local_scorer, read=read)
    assert "00010.jpg" not in requested
    errors = [row for row in read_rows(tmp_path, "errors") if row["reason"] == "kills_worker"]
    assert [(row["content_id"], row["shard"], row["position"]) for row in errors] == [("00010.jpg", 1, 4)]
    assert len(read_rows(tmp_path)) == COUNT - 3
    assert not list((tmp_path / "_attempts").iterdir())


def test_a_suspect_shard_is_scored_image_by_image(plan: ListPlan, tmp_path: Path, local_scorer: LocalScorer) -> None:
    """Each image of a suspect shard is noted before it is read, alone."""
    (tmp_path / "_attempts").mkdir()
    path = tmp_path / "_attempts" / "00002.json"
    path.write_text(json.dumps({"starts": 2, "deaths": {}, "now": None}))
    noted = []

    def read(item: Item) -> bytes:
        if path.exists() and "00012" <= item.content_id < "00018":
            noted.append((item.content_id, json.loads(path.read_text())["now"]))
        return read_file(item)

    scan_all(plan, tmp_path, local_scorer, read=read)
    assert noted == [(f"{12 + position:05d}.jpg", position) for position in range(SHARD)]
    assert len(read_marks(tmp_path)) == 4


def test_two_scans_share_a_run(plan: ListPlan, tmp_path: Path, local_scorer: LocalScorer) -> None:
    """A second scan of a claimed shard scores no image twice."""
    blocked, unblocked = threading.Event(), threading.Event()

    def wait(item: Item) -> bytes:
        blocked.set()
        unblocked.wait(60)
        return read_file(item)

    other = LocalScorer(local_scorer.settings)
    first = Scan(tmp_path, plan, other, wait)
    thread = threading.Thread(target=first.run, args=([0],))
    thread.start()
    blocked.wait(60)
    second = scan_all(plan, tmp_path, local_scorer)
    unblocked.set()
    thread.join()
    assert second.progress.counts["images"] == COUNT - SHARD
    assert first.progress.counts["images"] == SHARD
    assert len(read_rows(tmp_path)) == COUNT - 2


def test_refused_images_have_error_rows(plan: ListPlan, tmp_path: Path, local_scorer: LocalScorer) -> None:
    """An image that the reader refuses has an error row with the reason, and is not retried."""

    def refuse(_: Item) -> bytes:
        raise Unscorable(Reason.FORBIDDEN_URI, "not here")

    scan_all(plan, tmp_path, local_scorer, read=refuse)
    assert {row["reason"] for row in read_rows(tmp_path, "errors")} == {"forbidden_uri"}
    assert sum(mark.retryable for mark in read_marks(tmp_path)) == 0
