"""What a scan holds in memory does not grow with the archive."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.scorer.archive.list_plan import make_archive

FEW, MANY = 2_000, 20_000
DIFFERENT = 200
MAX_GROWTH = 0.05
COMMAND = Path(sys.executable).parent / "unlensed"


def test_memory_does_not_grow_with_the_archive(
    tmp_path: Path, portrait: bytes, root: Path, say: Callable[[str], None]
) -> None:
    """The most that 20,000 listed images ever hold resident, report included, is within 5 % of what 2,000 do."""
    pictures = [
        path.read_bytes() for path in sorted(make_archive(tmp_path / "pictures", portrait, DIFFERENT).iterdir())
    ]
    peaks = {}
    for count in (FEW, MANY):
        images = tmp_path / f"{count}"
        images.mkdir()
        for number in range(count):
            (images / f"{number:05d}.jpg").write_bytes(pictures[number % DIFFERENT])
        started_s = time.monotonic()
        command = [COMMAND, "scan", images, "--out", tmp_path / f"run-{count}", "--bundle", root / "model_repository"]
        scan = subprocess.Popen([*command, "--max-failed", str(MANY)], cwd=root, stderr=subprocess.DEVNULL)
        _, status, usage = os.wait4(scan.pid, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        peaks[count] = usage.ru_maxrss / 1024
        say(f"{count} images: {peaks[count]:.0f} MiB at most, {count / (time.monotonic() - started_s):.0f} images/s")
    assert peaks[MANY] < (1 + MAX_GROWTH) * peaks[FEW]
