"""The figures of a run: sums agree, and only files that marks name are counted."""

import json
import tempfile
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scorer.archive.folder import part_name
from scorer.archive.report.run_page import render_report
from scorer.archive.report.shares import MAX_GROUPS, MIN_GROUP_FACES, find_share
from scorer.archive.report.summary import BINS, choose_edges, summarise
from scorer.decide import decide_face
from scorer.errors import RunBroken, UsageError
from scorer.messages import Decision, Status
from tests.scorer.archive.report.written_run import POLICY, WrittenImage, write_run, write_shard

RATE = st.integers(1, 200).map(lambda rank: rank / 200)
NAMES = st.sampled_from(["holiday", "x' OR 1=1 --", "<b>", "\u202e", ""])


@st.composite
def draw_images(draw: st.DrawFn) -> list[WrittenImage]:
    """Return images of one shard: scored, unscored, without a face, and failed."""
    images = []
    for number in range(draw(st.integers(0, 12))):
        faces = draw(st.lists(RATE, max_size=3))
        unscored = draw(st.integers(0, 2))
        failure = draw(st.sampled_from([None, None, None, "truncated", "timed_out"]))
        images.append(
            WrittenImage(
                f"{number}",
                () if failure else (*faces, *[None] * unscored),
                draw(NAMES),
                draw(st.none() | NAMES),
                tuple(draw(st.sets(st.sampled_from(["thumbnail", "resized"])))),
                failure,
            )
        )
    return images


@settings(max_examples=12)
@given(shards=st.lists(draw_images(), max_size=3))
def test_figures_add_up(shards: list[list[WrittenImage]]) -> None:
    """Images, faces, decisions, groups and bins agree with the written rows."""
    with tempfile.TemporaryDirectory() as folder:
        summary = summarise(write_run(Path(folder), shards))
    images = [image for shard in shards for image in shard]
    scored = [(image, p) for image in images for p in image.p_values if p is not None]
    assert summary.images == len(images)
    assert summary.failed_by_reason == dict(Counter(image.failure for image in images if image.failure))
    assert summary.marks == dict(Counter(mark for s in images if not s.failure for mark in sorted(s.marks)))
    for column, bins, apart in (
        (summary.main, summary.histogram.main, False),
        (summary.apart, summary.histogram.apart, True),
    ):
        expected = [(image, p) for image, p in scored if bool(image.marks) is apart]
        assert column.scored_faces == column.flagged.of == sum(bins) == len(expected)
        assert column.flagged.count == sum(p <= POLICY.flag_false_alarm_rate for _, p in expected)
        assert sum(column.decisions.values()) == column.faces
        assert sum(column.image_decisions.values()) + column.no_face == column.images
        assert column.unscored == sum(
            image.status is Status.FAILED for image in images if not image.failure and bool(image.marks) is apart
        )
        for groups, name in ((column.by_source, "source"), (column.by_camera, "camera")):
            assert sum(group.flagged.of for group in groups) == len(expected)
            assert sum(group.flagged.count for group in groups) == column.flagged.count
            faces = Counter(getattr(image, name) or "" for image, _ in expected)
            assert {g.name for g in groups if not g.folded} == {n for n, c in faces.items() if c >= MIN_GROUP_FACES}
        decisions = Counter(decide_face(p, POLICY) for _, p in expected)
        assert column.decisions["flag"] == decisions[Decision.FLAG]
    assert summary.main.images + summary.apart.images + summary.failed == summary.images


def test_only_files_of_a_mark_count(tmp_path: Path) -> None:
    """Files of a shard without a mark, and files that a retry replaced, are ignored."""
    run = write_run(tmp_path, [[WrittenImage("a", (0.5,))], [WrittenImage("b", (0.5, 0.2))]], planned=3)
    write_shard(tmp_path, 2, [WrittenImage("c", (0.5,))])
    (run / "_stats" / "00002.json").unlink()
    (run / "results" / "part-00001.1.parquet").write_bytes(b"half a file")
    (run / "_stats" / ".00001.json.17.partial").write_bytes(b"{")
    summary = summarise(run)
    assert (summary.images, summary.main.faces) == (2, 3)
    assert (summary.shards_committed, summary.shards_planned, summary.complete) == (2, 3, False)


def test_copies_of_a_face_are_shown_once(tmp_path: Path) -> None:
    """The gallery shows the least likely face once, with the number of its copies."""
    copies = [WrittenImage(f"{n}", (0.005,), facts={"sha256": "a" * 64}) for n in range(5)]
    summary = summarise(write_run(tmp_path, [[*copies, WrittenImage("b", (0.2,))]]))
    assert [(face.content_id, face.copies) for face in summary.main.least_likely] == [("0", 4), ("b", 0)]


def test_further_sources_are_combined(tmp_path: Path) -> None:
    """The report's table has a limited length, with any number of folders in the archive."""
    images = [
        WrittenImage(f"{n}-{i}", (0.5,), f"s{n:02}") for n in range(MAX_GROUPS + 5) for i in range(MIN_GROUP_FACES)
    ]
    groups = summarise(write_run(tmp_path, [images])).main.by_source
    assert len(groups) == MAX_GROUPS + 1
    assert (groups[-1].folded, groups[-1].flagged.of) == (5, 5 * MIN_GROUP_FACES)


def test_strata_have_their_faces_and_images(tmp_path: Path) -> None:
    """A face counts in its stratum, whose interval counts each image once."""
    sizes = [("large", 30), ("small_low_quality", 25), ("no_quality", 3)]
    images = [
        WrittenImage(f"{name}-{n}", (0.001 if n < 5 else 0.5, 0.5), facts={"stratum": name})
        for name, count in sizes
        for n in range(count)
    ]
    groups = {group.name: group for group in summarise(write_run(tmp_path, [images])).main.by_stratum}
    assert {name: group.flagged.of for name, group in groups.items()} == {"large": 60, "small_low_quality": 50, "": 6}
    large = groups["large"].flagged
    assert (large.count, large) == (5, find_share(5, 60, 30))


def test_a_folder_name_is_not_a_pattern(tmp_path: Path) -> None:
    """Brackets, stars and quotes in the run's path are read neither as a glob nor as SQL."""
    run = write_run(tmp_path / "a[1]*'; --", [[WrittenImage("a", (0.5,))]])
    assert summarise(run).images == 1


def test_throughput_counts_each_second_of_work_once(tmp_path: Path) -> None:
    """Overlapping intervals count once, and a pause does not count."""
    run = write_run(tmp_path, [[WrittenImage(f"{n}")] for n in range(3)])
    work_intervals = [
        [("09:00:00", "09:00:10"), ("10:00:00", "10:00:05")],
        [("09:00:05", "09:00:20")],
        [("10:00:00", "10:00:10")],
    ]
    for shard, times in enumerate(work_intervals):
        path = run / "_stats" / f"0000{shard}.json"
        written = [{"started_at": f"2026-01-15T{a}Z", "finished_at": f"2026-01-15T{b}Z"} for a, b in times]
        path.write_text(json.dumps(json.loads(path.read_text()) | {"spells": written}))
    speed = summarise(run).throughput
    assert (speed.busy_s, speed.images_per_s, speed.slowest_stage) == (30, 0.1, "decode")
    assert speed.stage_s == {"read": 3, "decode": 18}


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    """A folder without run.json is refused, and the error states what to name instead."""
    with pytest.raises(UsageError, match=r"no run\.json"):
        summarise(tmp_path)


@pytest.mark.parametrize("damage", ["gone", "empty", "cut", "flipped", "other", "mark", "name", "count", "run"])
def test_damage_is_reported(tmp_path: Path, damage: str) -> None:
    """Missing, truncated, exchanged files and invalid marks are errors."""
    run = write_run(tmp_path, [[WrittenImage("a", (0.5,) * 400)]])
    part, mark = run / "results" / part_name(0), run / "_stats" / "00000.json"
    match damage:
        case "gone":
            part.unlink()
        case "empty":
            part.write_bytes(b"")
        case "cut":
            part.write_bytes(part.read_bytes()[:-20])
        case "flipped":
            data = bytearray(part.read_bytes())
            data[4 : len(data) * 2 // 3] = bytes(len(data) * 2 // 3 - 4)
            part.write_bytes(data)
        case "other":
            (run / "errors").mkdir(exist_ok=True)
            part.rename(run / "errors" / part_name(0))
            parts = json.loads(mark.read_text())
            mark.write_text(json.dumps(parts | {"errors": parts["results"]}))
            write_shard(run, 1, [])
            (run / "results" / part_name(1)).rename(part)
            (run / "_stats" / "00001.json").unlink()
        case "mark":
            mark.write_text("{}")
        case "name":
            mark.write_text(mark.read_text().replace(part_name(0), "../../secret.parquet"))
        case "count":
            mark.write_text(mark.read_text().replace('"images":1', '"images":2'))
        case "run":
            (run / "run.json").write_text("[]")
    with pytest.raises(RunBroken):
        summarise(run)


@given(counts=st.dictionaries(st.integers(-1_000_000, 1_000_000), st.integers(1, 1000), max_size=30))
def test_the_axis_is_short_and_round(counts: dict[int, int]) -> None:
    """At most `BINS` + 1 bins of equal width of at least 1 nat cover any likelihoods."""
    edges = choose_edges(Counter(counts), [])
    assert 2 <= len(edges) <= BINS + 2
    widths = {high - low for low, high in pairwise(edges)}
    assert len(widths) == 1
    assert min(widths) >= 1


@given(of=st.integers(1, 10_000), part=st.floats(0, 1), cases=st.integers(1, 10_000))
def test_an_interval_contains_its_share(of: int, part: float, cases: int) -> None:
    """Low <= share <= high within 0..1, and fewer cases never make the interval narrower."""
    share = find_share(round(of * part), of, cases)
    fewer = find_share(round(of * part), of, max(1, cases // 2))
    assert share.value is not None
    assert share.low is not None
    assert share.high is not None
    assert fewer.low is not None
    assert fewer.high is not None
    assert 0 <= share.low <= share.value <= share.high <= 1
    assert fewer.high - fewer.low >= share.high - share.low - 1e-12


def test_statements_are_counted_by_image(tmp_path: Path) -> None:
    """An image with alike statements counts once; files of older releases were not read."""
    made = {"kind": "generator", "statement": "Software: x", "source": "xmp", "validity": "unverified"}
    signed = {"kind": "digital_source_type", "statement": "y", "source": "c2pa", "validity": "trusted"}
    images = [
        WrittenImage("two", (0.5, 0.2), facts={"provenance": [made, made | {"statement": "z"}, signed]}),
        WrittenImage("one", (0.5,), facts={"provenance": [made], "reason_codes": ["stated_generated"]}),
        WrittenImage("silent", (0.5,), facts={"provenance": []}),
        WrittenImage("unread", (0.5,)),
    ]
    run = write_run(tmp_path, [images, [WrittenImage("old", (0.5,))]])
    path = run / "results" / "part-00001.parquet"
    pq.write_table(pq.ParquetFile(path).read().drop_columns(["provenance"]), path)
    stated = summarise(run).statements
    assert (stated.read, stated.stating, stated.generated) == (3, 2, 1)
    assert [(each.source, each.kind, each.validity, each.images) for each in stated.counts] == [
        ("xmp", "generator", "unverified", 2),
        ("c2pa", "digital_source_type", "trusted", 1),
    ]
    page = render_report(summarise(run), lambda _: None)
    assert "2 of 3 images state something" in page
    old = write_run(tmp_path / "old", [[WrittenImage("a", (0.5,))]])
    assert "What images state" not in render_report(summarise(old), lambda _: None)
