"""A shard is committed whole or not at all."""

import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from scorer.archive.claims import Claim
from scorer.archive.cleanup import remove_uncommitted_files
from scorer.archive.marks import read_mark
from scorer.archive.scan import Scan
from scorer.errors import CannotCommit, RunBroken
from scorer.local_scorer import LocalScorer
from scorer.messages import RequestedFace
from tests.scorer.archive.list_plan import FACE, ListPlan, make_archive, read_file

LIMITED = """
import resource, runpy, sys
from scorer.archive.scan import Scan
size, run = int(sys.argv.pop(1)), Scan.run
def run_limited(self, *arguments, **named):  # the bundle's networks have been copied for the decoders by then
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    run(self, *arguments, **named)
Scan.run = run_limited
runpy.run_module("tests.scorer.archive.list_plan", run_name="__main__")
"""


@pytest.fixture
def plan(tmp_path: Path, portrait: bytes) -> ListPlan:
    """Three shards of six images."""
    return ListPlan(make_archive(tmp_path / "photographs", portrait, 18), 6, (RequestedFace(face_id="0", box=FACE),))


@pytest.mark.slow
def test_a_full_disk_leaves_no_partial_file(
    plan: ListPlan, tmp_path: Path, root: Path, local_scorer: LocalScorer
) -> None:
    """If no file can exceed 3,000 bytes the scan fails and leaves none; later it resumes."""
    folder = tmp_path / "run"
    command = [sys.executable, "-c", LIMITED, "3000", plan.folder, folder, "6", root / "model_repository"]
    run = subprocess.run(
        command, cwd=root, env=os.environ | {"PYTHONPATH": "."}, capture_output=True, text=True, check=False
    )
    assert run.returncode
    assert "CannotCommit" in run.stderr
    assert "File too large" in run.stderr
    assert "run the same command again" in run.stderr
    assert not [path for path in folder.rglob("*") if path.is_file()]
    Scan(folder, plan, local_scorer, read_file).run(range(3))
    assert sum(pq.read_metadata(path).num_rows for path in (folder / "results").iterdir()) == 16


def test_a_folder_that_cannot_be_written_commits_nothing(
    plan: ListPlan, tmp_path: Path, local_scorer: LocalScorer
) -> None:
    """The error names the shard and the cause, and there is no mark for a missing file."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "errors").touch()
    with pytest.raises(CannotCommit, match="shard 0 cannot be written"):
        Scan(tmp_path / "run", plan, local_scorer, read_file).run(range(3))
    assert read_mark(tmp_path / "run", 0) is None
    assert not list((tmp_path / "run" / "_attempts").iterdir())


def test_files_of_killed_processes_are_removed(plan: ListPlan, tmp_path: Path, local_scorer: LocalScorer) -> None:
    """Partial files and those without mark are removed, but not those of a claimed shard."""
    folder = tmp_path / "run"
    Scan(folder, plan, local_scorer, read_file).run(range(2))
    kept = {path for path in folder.rglob("*") if path.is_file()}
    strays = [
        folder / "results" / "part-00000.1.parquet",
        folder / "results" / ".part-00001.1.parquet.0ac01377.partial",
        folder / "_stats" / ".00002.json.e7715d20.partial",
        folder / "errors" / "part-00002.parquet",
    ]
    others = [folder / "results" / "notes.txt", folder / "results" / "part-00009.parquet"]
    for path in [*strays, *others]:
        path.write_text("left")
    claim = Claim.acquire(folder / "_attempts", 1)
    assert remove_uncommitted_files(folder, range(3)) == 3
    claim.release()
    assert remove_uncommitted_files(folder, range(3)) == 1
    assert {path for path in folder.rglob("*") if path.is_file()} == kept | set(others)


def test_an_invalid_mark_is_reported(plan: ListPlan, tmp_path: Path, local_scorer: LocalScorer) -> None:
    """A mark that is not valid ends the scan with an error that states what to do."""
    (tmp_path / "_stats").mkdir()
    (tmp_path / "_stats" / "00001.json").write_text('{"shard": 1}')
    with pytest.raises(RunBroken, match=r"00001\.json is not a commit mark.*delete it"):
        Scan(tmp_path, plan, local_scorer, read_file).run(range(3))
