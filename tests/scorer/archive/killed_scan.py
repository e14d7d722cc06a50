"""A scan whose processes are killed at random moments, and the files that it leaves."""

import random
import select
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

PROGRAM = "tests.scorer.archive.list_plan"


class KilledScan:
    """Scans the folder `images` into the run `folder`, in processes that are killed until `finish`."""

    def __init__(self, images: Path, folder: Path, shard_images: int, root: Path) -> None:
        self.folder = folder
        self.kills = 0
        self._root = root
        self._command = [sys.executable, "-m", PROGRAM, images, folder, str(shard_images), root / "model_repository"]

    def kill_after(self, commits: int, delay_s: float) -> bool:
        """Start a process and kill it `delay_s` after `commits` commits; return False if it ended before."""
        wanted = self.count_marks() + commits
        with self._start() as process:
            if process.stdout is None:
                raise AssertionError
            process.stdout.readline()  # "ready": the engine is loaded
            while self.count_marks() < wanted and process.poll() is None:
                select.select([process.stdout], [], [], 0.02)  # returns at once when the process exits
            select.select([process.stdout], [], [], delay_s)
            process.kill()
            self.kills += 1
            return process.wait() != 0

    def finish(self) -> None:
        """Start a process, and let it complete the run."""
        with self._start() as process:
            output, errors = process.communicate()
            if process.returncode:
                raise AssertionError(output + errors)

    def _start(self) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(self._command, cwd=self._root, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def count_committed(self) -> int:
        """Return how many shards are committed, after reading every published file."""
        for kind in ("results", "errors"):
            for path in (self.folder / kind).glob("part-*"):
                pq.read_table(path, partitioning=None)
        return self.count_marks()

    def count_marks(self) -> int:
        """Return how many shards are committed."""
        return len(list((self.folder / "_stats").glob("[0-9]*.json")))


def read_images(folder: Path) -> dict[str, Any]:
    """Return the row of each image without the time; no image may have two."""
    rows = [
        row | {"scored_at": None}
        for kind in ("results", "errors")
        for path in sorted((folder / kind).glob("part-*"))
        for row in pq.read_table(path, partitioning=None).to_pylist()
    ]
    twice = [name for name, count in Counter(row["content_id"] for row in rows).items() if count > 1]
    assert not twice, f"scored twice: {twice[:5]}"
    return {row["content_id"]: row for row in rows}


def kill_often(scan: KilledScan, kills: int, share: float, longest_s: float = 0.3, seed: int = 3) -> list[int]:
    """Kill a scan `kills` times; return how many shards were committed after each kill.

    Args:
        scan: not started.
        kills: how often.
        share: of the kills that come after a commit; the scan must have enough shards for them.
        longest_s: the longest delay of a kill after the start, or after that commit.
        seed: for the random moments.
    """
    rng = random.Random(seed)  # noqa: S311 - chooses moments, no secret
    committed = []
    while scan.kills < kills and scan.kill_after(int(rng.random() < share), rng.uniform(0, longest_s)):
        committed.append(scan.count_committed())
    return committed
