"""The run in a folder: when it is resumed, and when it is refused."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from ingest.probe import Limits
from scorer.archive.run import RunFile, open_run, wait_for_run
from scorer.decide import Policy
from scorer.errors import RunBroken, RunNotReady, RunRefused, UsageError

RUN = RunFile(
    version="1",
    created_at=datetime(2026, 5, 1, tzinfo=UTC),
    bundle_id="a",
    bundle_digest="0" * 64,
    policy=Policy(),
    limits=Limits(),
    sources=("/photographs",),
    options={"shard_images": 10},
    shards=0,
    plan_digest="",
)


def plan(folder: Path) -> tuple[int, str]:
    """Write a plan of three shards."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "plan").touch()
    return 3, "digest"


def test_the_same_run_is_resumed(tmp_path: Path) -> None:
    """The same command resumes the run and does not plan again, with --new-run or without."""
    folder = tmp_path / "run"
    first = open_run(folder, RUN, plan, new_run=False)
    assert (first.shards, first.plan_digest) == (3, "digest")
    (folder / "_plan" / "plan").unlink()
    later = RUN.model_copy(update={"created_at": datetime(2026, 6, 1, tzinfo=UTC), "version": "2"})
    for new_run in (False, True):
        assert open_run(folder, later, plan, new_run=new_run) == first
    assert not (folder / "_plan" / "plan").exists()
    assert wait_for_run(folder, later, timeout_s=0) == first


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"bundle_digest": "1" * 64, "bundle_id": "b"}, ["bundle digest", "a there, b here"]),
        ({"policy": Policy(flag_false_alarm_rate=0.02)}, ["flag_false_alarm_rate is 0.01", "0.02"]),
        ({"sources": ("/elsewhere",)}, ["sources: /photographs", "/elsewhere"]),
        ({"options": {"shard_images": 20}}, ["shard_images is 10", "20"]),
        ({"statements": "read"}, ["statements: not read", "now: read"]),
        ({"limits": Limits(max_side=100)}, ["max_side is 30000", "100"]),
    ],
)
def test_another_run_is_refused_or_renamed(tmp_path: Path, change: dict[str, object], words: list[str]) -> None:
    """The error names the difference and --new-run, which renames the old run."""
    folder = tmp_path / "run"
    open_run(folder, RUN, plan, new_run=False)
    (folder / "results").mkdir()
    other = RUN.model_copy(update=change)
    with pytest.raises(RunRefused) as refusal:
        open_run(folder, other, plan, new_run=False)
    for word in [*words, "--new-run"]:
        assert word in str(refusal.value)
    with pytest.raises(RunNotReady):
        wait_for_run(folder, other, timeout_s=0)
    assert open_run(folder, other, plan, new_run=True).shards == 3
    assert not (folder / "results").exists()
    assert (tmp_path / "run.20260501T000000Z" / "results").is_dir()


def test_a_folder_with_other_files_is_refused(tmp_path: Path) -> None:
    """Other files are never touched; leftovers of a killed process do not matter."""
    with pytest.raises(RunNotReady):
        wait_for_run(tmp_path / "nowhere", RUN, timeout_s=0)
    half = tmp_path / "half"
    plan(half / "_plan")
    (half / ".run.json.5eedf00d.partial").touch()
    assert open_run(half, RUN, plan, new_run=False).shards == 3
    full = tmp_path / "full"
    full.mkdir()
    (full / "letter.txt").write_text("text")
    with pytest.raises(RunRefused, match="not empty"):
        open_run(full, RUN, plan, new_run=True)
    (full / "letter.txt").rename(full / "run.json")
    with pytest.raises(RunBroken, match="not a run of this release"):
        open_run(full, RUN, plan, new_run=True)


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    """A file of that name or as a parent, and a read-only file system, are refused."""
    (tmp_path / "file").write_bytes(b"")
    for folder in (tmp_path / "file", tmp_path / "file" / "run", Path("/proc/run")):
        with pytest.raises(RunRefused, match="cannot be written"):
            open_run(folder, RUN, plan, new_run=False)


def test_a_failed_plan_leaves_no_folder(tmp_path: Path) -> None:
    """A folder that was created for the run is removed; an existing one is kept."""

    def fail(plan_folder: Path) -> tuple[int, str]:
        plan_folder.mkdir()
        message = "missing does not exist"
        raise UsageError(message)

    for folder, kept in ((tmp_path / "new", False), (tmp_path, True)):
        with pytest.raises(UsageError):
            open_run(folder, RUN, fail, new_run=False)
        assert folder.exists() is kept


def test_a_uri_is_not_a_run_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A URI is refused instead of becoming a local folder of that name."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="s3://bucket/run is a URI"):
        open_run(Path("s3://bucket/run"), RUN, plan, new_run=False)
    assert not list(tmp_path.iterdir())
