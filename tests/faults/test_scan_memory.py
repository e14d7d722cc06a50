"""The memory of a scan does not grow with the archive."""

import resource
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import pytest

from tests.scorer.archive.list_plan import make_archive
from tests.scorer.archive.real_scan import COMMAND, clean_environment

FEW, MANY, SHARD_IMAGES = 2_000, 20_000, 200
DIFFERENT = 200
MAX_GROWTH, MAX_PEAK_GROWTH = 0.05, 0.10  # peaks vary more: they need many full buffers at the same time

pytestmark = pytest.mark.long


def test_memory_does_not_grow_with_the_archive(
    tmp_path: Path, portrait: bytes, root: Path, say: Callable[[str], None]
) -> None:
    """The median resident memory of a scan of 20,000 listed images is at most 5 % above that of 2,000."""
    pictures = [path.read_bytes() for path in sorted(make_archive(tmp_path / "all", portrait, DIFFERENT).iterdir())]
    resident_mib = {}
    for count in (FEW, MANY):
        images = tmp_path / f"{count}"
        images.mkdir()
        for number in range(count):
            (images / f"{number:05d}.jpg").write_bytes(pictures[number % DIFFERENT])
        started_s = time.monotonic()
        resident_mib[count] = watch_scan(images, tmp_path / f"run-{count}", count // SHARD_IMAGES, root)
        say(
            f"{count} images: {median(resident_mib[count]):.0f} MiB in the median, "
            f"{max(resident_mib[count]):.0f} at most, {count / (time.monotonic() - started_s):.0f} images/s"
        )
    assert median(resident_mib[MANY]) < (1 + MAX_GROWTH) * median(resident_mib[FEW])
    assert max(resident_mib[MANY]) < (1 + MAX_PEAK_GROWTH) * max(resident_mib[FEW])


def watch_scan(images: Path, run: Path, shards: int, root: Path) -> list[float]:
    """Scan; return the resident memory in MiB every 0.1 s from the second shard's commit to the last's."""
    command = [COMMAND, "scan", images, "--out", run, "--bundle", root / "model_repository"]
    command += ["--shard-images", str(SHARD_IMAGES), "--max-failed", str(MANY)]
    resident_mib: list[float] = []
    with subprocess.Popen(command, cwd=root, env=clean_environment(), stderr=subprocess.DEVNULL) as scan:
        while scan.poll() is None:
            if 2 <= len(list((run / "_stats").glob("[0-9]*.json"))) < shards:
                pages = int(Path(f"/proc/{scan.pid}/statm").read_text().split()[1])
                resident_mib.append(pages * resource.getpagesize() / 2**20)
            time.sleep(0.1)
    assert scan.returncode == 0
    return resident_mib
