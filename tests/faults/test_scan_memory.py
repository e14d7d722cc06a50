"""What a scan holds in memory does not grow with the archive."""

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from tests.scorer.archive.list_plan import make_archive
from tests.scorer.archive.real_scan import COMMAND, clean_environment

FEW, MANY, SHARD_IMAGES = 2_000, 20_000, 200
DIFFERENT = 200
MAX_GROWTH = 0.05


def test_memory_does_not_grow_with_the_archive(
    tmp_path: Path, portrait: bytes, root: Path, say: Callable[[str], None]
) -> None:
    """The most that a scan of 20,000 listed images holds resident is within 5 % of what one of 2,000 does."""
    pictures = [path.read_bytes() for path in sorted(make_archive(tmp_path / "all", portrait, DIFFERENT).iterdir())]
    peaks_mib = {}
    for count in (FEW, MANY):
        images = tmp_path / f"{count}"
        images.mkdir()
        for number in range(count):
            (images / f"{number:05d}.jpg").write_bytes(pictures[number % DIFFERENT])
        started_s = time.monotonic()
        peaks_mib[count], with_report_mib = watch_scan(images, tmp_path / f"run-{count}", count // SHARD_IMAGES, root)
        say(
            f"{count} images: {peaks_mib[count]:.0f} MiB at most, {with_report_mib:.0f} with the report's, "
            f"{count / (time.monotonic() - started_s):.0f} images/s"
        )
    assert peaks_mib[MANY] < (1 + MAX_GROWTH) * peaks_mib[FEW]


def watch_scan(images: Path, run: Path, shards: int, root: Path) -> tuple[float, float]:
    """Scan; return the most MiB resident until the last shard was committed, and until the end."""
    command = [COMMAND, "scan", images, "--out", run, "--bundle", root / "model_repository"]
    command += ["--shard-images", str(SHARD_IMAGES), "--max-failed", str(MANY)]
    scanning_mib = whole_mib = 0.0
    with subprocess.Popen(command, cwd=root, env=clean_environment(), stderr=subprocess.DEVNULL) as scan:
        while scan.poll() is None:
            scanned = len(list((run / "_stats").glob("[0-9]*.json"))) == shards
            lines = Path(f"/proc/{scan.pid}/status").read_text().splitlines()
            whole_mib = next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), whole_mib)
            if not scanned:
                scanning_mib = whole_mib
            time.sleep(0.2)
    assert scan.returncode == 0
    return scanning_mib, whole_mib
