"""`kill -9` of a scan at random moments: no file is unreadable, no image is lost or repeated."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from scorer.archive.scan import Scan
from scorer.local_scorer import LocalScorer
from scorer.messages import RequestedFace
from tests.scorer.archive.killed_scan import KilledScan, kill_often, read_images
from tests.scorer.archive.list_plan import FACE, ListPlan, make_archive, read_file

KILLS = min(int(os.environ.get("UNLENSED_KILLS", "60")), 200)
SHARDS, SHARD_IMAGES = 30, 100
SHARE = 15 / KILLS  # of the kills come after a commit; 30 shards are enough for them

pytestmark = pytest.mark.long


def test_a_scan_that_is_killed_often_has_the_rows_of_an_undisturbed_one(
    tmp_path: Path, portrait: bytes, root: Path, local_scorer: LocalScorer, say: Callable[[str], None]
) -> None:
    """After every kill all published files can be read; in the end each image has the same row as without kills."""
    images = make_archive(tmp_path / "photographs", portrait, SHARDS * SHARD_IMAGES)
    plan = ListPlan(images, SHARD_IMAGES, (RequestedFace(face_id="0", box=FACE),))
    Scan(tmp_path / "whole", plan, local_scorer, read_file).run(range(plan.shard_count))
    scan = KilledScan(images, tmp_path / "run", SHARD_IMAGES, root)
    started_s = time.monotonic()
    committed = kill_often(scan, KILLS, SHARE)
    before = committed[-1]
    scan.finish()
    rows = read_images(tmp_path / "run")
    say(
        f"{scan.kills} kills in {time.monotonic() - started_s:.0f} s, {before} of {SHARDS} shards committed by killed "
        f"processes: {len(rows)} images, no duplicate"
    )
    assert committed == sorted(committed)
    assert before > 0
    assert rows == read_images(tmp_path / "whole")
