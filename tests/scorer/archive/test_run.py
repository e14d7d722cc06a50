"""Whose run lies in a folder, and who may go on with it."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from ingest.probe import Limits
from scorer.archive.run import RunFile, await_run, open_run
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


def test_the_same_run_is_gone_on_with(tmp_path: Path) -> None:
    """Who asks for the same again gets the run as it was begun, planned once, with --new-run or without."""
    folder = tmp_path / "run"
    begun = open_run(folder, RUN, plan, new_run=False)
    assert (begun.shards, begun.plan_digest) == (3, "digest")
    (folder / "_plan" / "plan").unlink()
    later = RUN.model_copy(update={"created_at": datetime(2026, 6, 1, tzinfo=UTC), "version": "2"})
    for new_run in (False, True):
        assert open_run(folder, later, plan, new_run=new_run) == begun
    assert not (folder / "_plan" / "plan").exists()
    assert await_run(folder, later, patience_s=0) == begun


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"bundle_digest": "1" * 64, "bundle_id": "b"}, ["bundle digest", "a there, b here"]),
        ({"policy": Policy(flag_false_alarm_rate=0.02)}, ["flag_false_alarm_rate is 0.01", "0.02"]),
        ({"sources": ("/elsewhere",)}, ["sources: /photographs", "/elsewhere"]),
        ({"options": {"shard_images": 20}}, ["shard_images is 10", "20"]),
        ({"limits": Limits(max_side=100)}, ["max_side is 30000", "100"]),
    ],
)
def test_another_run_is_refused_and_renamed_aside_on_demand(
    tmp_path: Path, change: dict[str, object], words: list[str]
) -> None:
    """The sentence names the difference and --new-run, which loses nothing."""
    folder = tmp_path / "run"
    open_run(folder, RUN, plan, new_run=False)
    (folder / "results").mkdir()
    other = RUN.model_copy(update=change)
    with pytest.raises(RunRefused) as refusal:
        open_run(folder, other, plan, new_run=False)
    for word in [*words, "--new-run"]:
        assert word in str(refusal.value)
    with pytest.raises(RunNotReady):
        await_run(folder, other, patience_s=0)
    assert open_run(folder, other, plan, new_run=True).shards == 3
    assert not (folder / "results").exists()
    assert (tmp_path / "run.20260501T000000Z" / "results").is_dir()


def test_a_folder_with_something_else_is_refused(tmp_path: Path) -> None:
    """Files that are no run's stay alone; what a killed process left is gone on with."""
    with pytest.raises(RunNotReady):
        await_run(tmp_path / "nowhere", RUN, patience_s=0)
    half = tmp_path / "half"
    plan(half / "_plan")
    (half / ".run.json.5eedf00d.partial").touch()
    assert open_run(half, RUN, plan, new_run=False).shards == 3
    full = tmp_path / "full"
    full.mkdir()
    (full / "letter.txt").write_text("dear")
    with pytest.raises(RunRefused, match="not empty"):
        open_run(full, RUN, plan, new_run=True)
    (full / "letter.txt").rename(full / "run.json")
    with pytest.raises(RunBroken, match="no run of this release"):
        open_run(full, RUN, plan, new_run=True)


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    """A file in its place, a file on the way and a file system that takes nothing are no passing outage."""
    (tmp_path / "file").write_bytes(b"")
    for folder in (tmp_path / "file", tmp_path / "file" / "run", Path("/proc/run")):
        with pytest.raises(RunRefused, match="cannot be written"):
            open_run(folder, RUN, plan, new_run=False)


def test_planning_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    """A folder that was made for the run goes again; one that was there stays."""

    def fail(place: Path) -> tuple[int, str]:
        place.mkdir()
        message = "missing does not exist"
        raise UsageError(message)

    for folder, stays in ((tmp_path / "new", False), (tmp_path, True)):
        with pytest.raises(UsageError):
            open_run(folder, RUN, fail, new_run=False)
        assert folder.exists() is stays


def test_a_run_is_no_uri(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store's address does not become a folder of that name."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="s3://bucket/run is a URI"):
        open_run(Path("s3://bucket/run"), RUN, plan, new_run=False)
    assert not list(tmp_path.iterdir())
