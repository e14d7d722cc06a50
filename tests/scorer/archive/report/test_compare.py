"""Comparison of two runs."""

import tempfile
from dataclasses import replace
from html import unescape
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from scorer.archive.report.compare import compare_runs
from scorer.archive.report.compare_page import explain_sides, render_comparison, state_difference
from scorer.bundle.bundle import Bundle
from scorer.errors import UsageError
from scorer.meaning import explain_flag, explain_pass
from tests.scorer.archive.report.test_summary import RATE, draw_images
from tests.scorer.archive.report.written_run import WrittenImage, read_nothing, write_run


@settings(max_examples=8)
@given(shards=st.lists(draw_images(), max_size=2))
def test_a_run_agrees_with_itself(shards: list[list[WrittenImage]]) -> None:
    """A run compared with itself has no difference and correlation 1."""
    common = WrittenImage("common", (0.3,))
    named = [[replace(image, name=f"{number}/{image.name}") for image in shard] for number, shard in enumerate(shards)]
    with tempfile.TemporaryDirectory() as folder:
        run = write_run(Path(folder), [*named, [common]])
        found = compare_runs(run, run)
    assert found.faces == sum(len(image.p_values) for shard in [*named, [common]] for image in shard)
    assert found.flips.count == found.moved == found.a.faces_only_here == found.b.faces_only_here == 0
    assert found.ks == 0
    assert found.rank_correlation is None or found.rank_correlation == pytest.approx(1)
    assert found.disagreements == ()
    assert all(each.a == each.b for each in found.quantiles)
    assert sum(group.flips.of for group in found.by_source) == found.faces


@settings(max_examples=8)
@given(pairs=st.lists(st.tuples(RATE, RATE), min_size=2, max_size=40))
def test_the_figures_equal_those_of_scipy(pairs: list[tuple[float, float]]) -> None:
    """Rank correlation, KS distance and quantiles equal those of SciPy and NumPy, with ties."""
    first, second = zip(*pairs, strict=True)
    with tempfile.TemporaryDirectory() as folder:
        a, b = (
            write_run(Path(folder) / name, [[WrittenImage(f"{n}", (p,)) for n, p in enumerate(values)]])
            for name, values in (("a", first), ("b", second))
        )
        found = compare_runs(a, b)
    assert found.ks == pytest.approx(stats.ks_2samp(first, second, method="asymp").statistic)
    if len(set(first)) > 1 and len(set(second)) > 1:
        assert found.rank_correlation == pytest.approx(stats.spearmanr(first, second).statistic)
    else:
        assert found.rank_correlation is None
    for each in found.quantiles:
        assert each.a == np.quantile(first, each.level, method="inverted_cdf")
        assert each.b == np.quantile(second, each.level, method="inverted_cdf")


def test_differences_are_counted(tmp_path: Path) -> None:
    """Decisions, faces of one run, missing images, moved boxes and other bytes are counted apart."""
    before = [
        WrittenImage("same", (0.5,)),
        WrittenImage("flips", (0.005,)),
        WrittenImage("fewer", (0.5, 0.5)),
        WrittenImage("missing", (0.5,)),
        WrittenImage("moved", (0.5,)),
        WrittenImage("other", (0.5,)),
        WrittenImage("broken", (0.5,)),
    ]
    after = [
        WrittenImage("same", (0.6,)),
        WrittenImage("flips", (0.03,)),
        WrittenImage("fewer", (0.5,)),
        WrittenImage("moved", (0.5,), facts={"sha256": before[4].rows(0, 0)[0]["sha256"]}),
        replace(before[5], facts={"sha256": "0" * 64}),
        WrittenImage("broken", failure="truncated"),
        WrittenImage("new", (0.5, 0.5)),
    ]
    a, b = write_run(tmp_path / "a", [before]), write_run(tmp_path / "b", [after], bundle="next")
    found = compare_runs(a, b)
    assert (found.faces, found.moved) == (4, 1)
    assert found.matrix["flag"] == {"pass": 0, "review": 1, "flag": 0}
    assert (found.flips.count, found.a.flagged.count, found.b.flagged.count) == (1, 1, 0)
    assert (found.a.faces_only_here, found.a.of_missing_images) == (3, 1)
    assert (found.b.faces_only_here, found.b.of_missing_images) == (2, 2)
    assert [each.face.content_id for each in found.disagreements] == ["flips"]
    page = render_comparison(found, read_nothing)
    assert state_difference(found)[:20] in page
    assert explain_sides(found) == [explain_pass(None, 0.05), explain_flag(None, 0.01)]
    assert all(line in unescape(page) for line in explain_sides(found))
    assert "can no longer be read" in page


def test_a_moved_box_is_another_face(tmp_path: Path) -> None:
    """A face with the same id at another position is not compared."""
    image = WrittenImage("a", (0.5, 0.005))
    a = write_run(tmp_path / "a", [[image]])
    rows = image.rows(0, 0)
    facts = {"sha256": rows[0]["sha256"]}
    b = write_run(tmp_path / "b", [[Shifted("a", (0.5, 0.005), facts=facts)]])
    found = compare_runs(a, b)
    assert (found.faces, found.moved) == (0, 2)
    assert found.flips.value is None
    assert "was the face detector replaced" in state_difference(found)
    assert render_comparison(found, read_nothing)


class Shifted(WrittenImage):
    """An image whose faces were found at other positions."""

    def rows(self, shard: int, position: int) -> list[dict[str, object]]:
        """Return the image's rows, each box shifted by its width."""
        return [row | {"face_x": row["face_x"] + row["face_width"]} for row in super().rows(shard, position)]


def test_runs_of_other_archives_are_refused(tmp_path: Path) -> None:
    """Runs without an image in common are refused, even if their sources have the same name."""
    a, b = (write_run(tmp_path / name, [[WrittenImage(f"{name}.jpg", (0.5,))]]) for name in "ab")
    with pytest.raises(UsageError, match="no image in common"):
        compare_runs(a, b)


def test_no_name_becomes_markup(tmp_path: Path) -> None:
    """Malicious ids, sources, cameras and folders are shown as text in the comparison."""
    name = "<script>alert(1)</script>\u202e"
    runs = [
        write_run(tmp_path / f"<b>{n}", [[WrittenImage(name, (p,) * 25, name, name)]], bundle=name)
        for n, p in enumerate((0.005, 0.9))
    ]
    page = render_comparison(compare_runs(*runs), read_nothing)
    assert "<script" not in page
    assert "<b>" not in page
    assert "\u202e" not in page


def test_each_bundle_s_decisions_are_explained_by_its_own_figures(tmp_path: Path, starter: Bundle) -> None:
    """If only one bundle states an evaluation, each run's decisions are explained separately."""
    images = [[WrittenImage("a", (0.5,))]]
    a = write_run(tmp_path / "a", images)
    b = write_run(tmp_path / "b", images, bundle="next", evaluation=starter.manifest.evaluation)
    lines = explain_sides(compare_runs(a, b))
    assert [line[:3] for line in lines] == ["A, ", "A, ", "B, ", "B, "]
    assert "not measured" in lines[0]
    assert "1,728 of 1,902 generated faces" in lines[2]
