"""`kill -9` of a scan; `tests/faults/test_scan_kills.py` does the same more often and with more images."""

from pathlib import Path

import pytest

from scorer.archive.cleanup import remove_uncommitted_files
from scorer.archive.folder import mark_name
from scorer.archive.scan import Scan
from scorer.local_scorer import LocalScorer
from scorer.messages import RequestedFace
from tests.scorer.archive.killed_scan import KilledScan, kill_often, read_images
from tests.scorer.archive.list_plan import FACE, ListPlan, make_archive, read_file

KILLS, IMAGES, SHARD_IMAGES = 2, 80, 10


@pytest.mark.slow
def test_a_killed_scan_has_the_rows_of_an_undisturbed_one(
    tmp_path: Path, portrait: bytes, root: Path, local_scorer: LocalScorer
) -> None:
    """After kills each image has its one undisturbed row, and no commit is lost."""
    images = make_archive(tmp_path / "photographs", portrait, IMAGES)
    plan = ListPlan(images, SHARD_IMAGES, (RequestedFace(face_id="0", box=FACE),))
    Scan(tmp_path / "whole", plan, local_scorer, read_file).run(range(plan.shard_count))
    scan = KilledScan(images, tmp_path / "run", SHARD_IMAGES, root)
    committed = kill_often(scan, KILLS, share=0.7)
    assert committed == sorted(committed)
    assert committed[-1] > 0
    scan.finish()
    assert read_images(tmp_path / "run") == read_images(tmp_path / "whole")
    remove_uncommitted_files(tmp_path / "run", range(plan.shard_count))
    marks = sorted(path.name for path in (tmp_path / "run" / "_stats").iterdir())
    assert marks == [mark_name(shard) for shard in range(plan.shard_count)]
