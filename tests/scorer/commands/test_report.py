"""`unlensed report` and `unlensed compare` on the command line."""

import json
from pathlib import Path

import pytest

from scorer.commands.main import main
from scorer.decide import Policy
from tests.scorer.archive.report.written_run import WrittenImage, write_run


def call(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """Run the command line and return its exit code."""
    monkeypatch.setattr("sys.argv", ["unlensed", *map(str, arguments)])
    with pytest.raises(SystemExit) as ending:
        main()
    return int(ending.value.code or 0)


def test_report_writes_both_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The figures on standard output are those of summary.json, and report.html is written, too."""
    run = write_run(tmp_path, [[WrittenImage("a", (0.005, 0.5))]])
    assert call(monkeypatch, "report", run, "--json") == 0
    assert json.loads(capsys.readouterr().out) == json.loads((run / "summary.json").read_text())
    assert (run / "report.html").read_text().startswith("<!DOCTYPE html>")


def test_compare_prints_tables_and_writes_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The terminal shows the decisions, with malicious names as text, and --out contains the page."""
    name = "[bold]x[/bold]\x1b[31m"
    a, b = (write_run(tmp_path / n, [[WrittenImage("i", (p,) * 25, name)]]) for n, p in (("a", 0.005), ("b", 0.9)))
    page = tmp_path / "pages" / "compared.html"
    assert call(monkeypatch, "compare", a, b, "--out", page) == 0
    shown = capsys.readouterr().out
    assert "the decision differs on 25" in " ".join(shown.split())
    assert "[bold]x[/bold]" in shown
    assert "\x1b[31m" not in shown
    assert page.read_text().startswith("<!DOCTYPE html>")
    assert call(monkeypatch, "compare", a, b, "--json") == 0
    assert json.loads(capsys.readouterr().out)["flips"]["count"] == 25


def test_compare_shows_both_policies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two policies with one name and version but other rates are shown in the terminal, the figures and the page."""
    policies = Policy(), Policy(flag_false_alarm_rate=0.0225, min_face_px=48)
    a, b = (
        write_run(tmp_path / name, [[WrittenImage("i", (0.5,))]], policy=policy)
        for name, policy in zip("ab", policies, strict=True)
    )
    page = tmp_path / "compared.html"
    assert call(monkeypatch, "compare", a, b, "--out", page) == 0
    for shown in (capsys.readouterr().out, page.read_text()):
        words = ("The two runs used different policies", "default, version 1", "0.0225", "0.05", "64 px", "48 px")
        assert [word for word in words if word not in shown] == []
    assert call(monkeypatch, "compare", a, b, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert [found[side]["policy"] for side in "ab"] == [policy.model_dump(mode="json") for policy in policies]
    assert call(monkeypatch, "compare", a, a) == 0
    assert "different policies" not in capsys.readouterr().out


@pytest.mark.parametrize("columns", [40, 60, 80])
def test_groups_keep_their_names_on_a_narrow_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], columns: int
) -> None:
    """On a narrow terminal other columns are omitted, and no name is truncated."""
    monkeypatch.setenv("COLUMNS", str(columns))
    a, b = (write_run(tmp_path / n, [[WrittenImage("i", (p,) * 25, "holiday")]]) for n, p in (("a", 0.005), ("b", 0.9)))
    assert call(monkeypatch, "compare", a, b) == 0
    shown = capsys.readouterr().out
    assert "holiday" in shown
    assert "…" not in shown
    assert ("B flags" in shown) == (columns >= 80)


@pytest.mark.parametrize(
    ("damage", "code", "sentence"),
    [("no run", 2, "contains no run.json"), ("broken", 65, "cannot be read"), ("unrelated", 2, "no image in common")],
)
def test_refusals_have_their_exit_codes(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    damage: str,
    code: int,
    sentence: str,
) -> None:
    """A wrong argument ends with 2 and a damaged run with 65, each with one error line."""
    a, b = (write_run(tmp_path / n, [[WrittenImage(n, (0.5,))]]) for n in "ab")
    if damage == "no run":
        (b / "run.json").unlink()
    elif damage == "broken":
        (b / "results" / "part-00000.parquet").unlink()
    assert call(monkeypatch, "compare", a, b) == code
    assert sentence in capsys.readouterr().err.replace("\n", " ")
