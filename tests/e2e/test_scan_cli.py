"""`unlensed scan` as a user runs it."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from scorer.archive.endings import RunRefused
from scorer.cli import app
from tests.scorer.archive.killed_scan import read_images
from tests.scorer.archive.list_plan import make_archive

COMMAND = Path(sys.executable).parent / "unlensed"


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [*filter(lambda name: name.startswith("UNLENSED_"), os.environ), "JOB_COMPLETION_INDEX"]:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory, portrait: bytes) -> Path:
    """Fourteen photographs, two of them broken."""
    return make_archive(tmp_path_factory.mktemp("archive") / "photographs", portrait, 14)


def scan(root: Path, images: Path, out: Path, *more: object) -> Result:
    """Run the command in this process."""
    arguments = ["scan", images, "--out", out, "--bundle", root / "model_repository", "--shard-images", 4, *more]
    return CliRunner().invoke(app, [str(each) for each in arguments])


def test_processes_share_a_run_by_index(
    root: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two parts make the whole; who comes last says so; the same command again changes nothing."""
    out = tmp_path / "run"
    first = scan(root, images, out, "--of", 2, "--max-failed", 9)
    assert (first.exit_code, (out / "_SUCCESS").exists()) == (0, False), first.output
    assert sorted(path.stem for path in (out / "_stats").iterdir()) == ["00000", "00002"]
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "1")
    second = scan(root, images, out, "--of", 2)
    assert (second.exit_code, (out / "_SUCCESS").exists()) == (3, True), second.output
    rows = read_images(out)
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["images"], summary["failed"], summary["complete"]) == (14, 2, True)
    assert sorted(Path(name).name for name in rows) == sorted(path.name for path in images.iterdir())
    before = {path: path.stat().st_mtime_ns for path in (out / "results").iterdir()}
    assert scan(root, images, out, "--of", 2, "--retry-failed").exit_code == 3
    assert {path: path.stat().st_mtime_ns for path in (out / "results").iterdir()} == before


def test_another_policy_is_refused(root: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run goes on under its own policy only; --new-run keeps the old results under another name."""
    out = tmp_path / "run"
    assert scan(root, images, out, "--max-failed", 2).exit_code == 0
    monkeypatch.setenv("UNLENSED_POLICY__REVIEW_FALSE_ALARM_RATE", "0.1")
    refused = scan(root, images, out)
    assert isinstance(refused.exception, RunRefused)
    assert "review_false_alarm_rate is 0.05, now it would be 0.1" in str(refused.exception)
    assert scan(root, images, out, "--new-run", "--max-failed", 2).exit_code == 0
    assert len(list(tmp_path.glob("run*/_SUCCESS"))) == 2


def test_dry_run_counts_and_measures(root: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without writing anything it says how much there is, and how long it takes; a terminal gets a table."""
    counted = scan(root, images, tmp_path / "run", "--dry-run")
    facts = json.loads(counted.stdout)
    assert (facts["images"], facts["shards"]) == (14, 4)
    assert facts["image_bytes"] == sum(path.stat().st_size for path in images.iterdir())
    assert facts["sampled_images"] == 14
    assert facts["duration_s"] == pytest.approx(14 / facts["images_per_s"])
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    table = scan(root, images, tmp_path / "run", "--dry-run").stdout
    assert "measured on 14 of them" in table
    assert json.loads(scan(root, images, tmp_path / "run", "--dry-run", "--json").stdout)["shards"] == 4
    assert not (tmp_path / "run").exists()


def test_a_terminated_scan_exits_75_and_goes_on(root: Path, tmp_path: Path, portrait: bytes) -> None:
    """SIGTERM ends it with a sentence that says how to go on; the same command then does the rest."""
    images = make_archive(tmp_path / "photographs", portrait, 200)
    out = tmp_path / "run"
    command = [COMMAND, "scan", images, "--out", out, "--bundle", root / "model_repository", "--shard-images", "10"]
    with subprocess.Popen(command, cwd=root, stderr=subprocess.PIPE, text=True) as process:
        while not list((out / "_stats").glob("*.json")) and process.poll() is None:
            signal.sigtimedwait([], 0.02)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate()
    assert process.returncode == 75, errors
    assert "the same command goes on" in errors
    assert "Traceback" not in errors
    committed = len(list((out / "_stats").iterdir()))
    assert 1 <= committed < 20
    assert not list((out / "_attempts").iterdir())
    again = scan(root, images, out, "--shard-images", 10, "--max-failed", 40)
    assert again.exit_code == 0
    assert len(read_images(out)) == 200


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--index", "2", "--of", "2"], "none of --of 2"),
        (["--uri-column", "a", "--bytes-column", "b"], "exclude each other"),
    ],
)
def test_wrong_usage_is_named(root: Path, images: Path, tmp_path: Path, arguments: list[str], word: str) -> None:
    """What cannot be meant is refused before anything is written."""
    refused = scan(root, images, tmp_path / "run", *arguments)
    assert word in str(refused.exception)
