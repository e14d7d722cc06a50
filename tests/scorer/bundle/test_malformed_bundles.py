"""Any fault of a bundle gives one sentence and exit code 65, without much memory or time."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from scorer.errors import BundleMismatch
from scorer.local_scorer import LocalScorer
from scorer.settings import Settings
from tests.conftest import ROOT
from tests.scorer.bundle.jobs import JOBS, run_command, run_job
from tests.scorer.bundle.malformed_bundles import list_harms

HARMS = list_harms(ROOT / "model_repository")
MEASURE = """
import sys, time
from pathlib import Path
from scorer.bundle.bundle import BundleMismatch, read_bundle

def peak():
    # Not ru_maxrss, which begins with that of the process which started this one.
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(peak.split()[1]) // 1024

read_bundle(Path({good!r}))
idle = peak()
for name in sys.argv[1:]:
    begun = time.process_time()
    try:
        read_bundle(Path(name))
    except BundleMismatch:
        print(time.process_time() - begun, peak() - idle)
    else:
        sys.exit(f"{{name}} was read")
"""


@pytest.mark.parametrize("harm", HARMS.values(), ids=HARMS)
def test_a_malformed_bundle_is_refused(copy: Path, harm: Callable[[Path], object]) -> None:
    """Every fault raises the bundle's own error with one sentence."""
    harm(copy)
    with pytest.raises(BundleMismatch, match=r"\S"):
        LocalScorer(Settings(bundle=copy, threads=1))


@pytest.mark.slow
def test_bombs_take_no_memory(copy: Path) -> None:
    """An array that inflates to more than its shape takes less than 2 s of CPU and 64 MiB."""
    folders = []
    for name, harm in HARMS.items():
        if name.endswith(("is a bomb", "is of a huge shape")):
            folders.append(shutil.copytree(copy, copy.with_name(f"bundle-{len(folders)}")))
            harm(folders[-1])
    program = MEASURE.format(good=str(copy))
    run = subprocess.run(
        [sys.executable, "-c", program, *folders], capture_output=True, text=True, check=False, timeout=300
    )
    assert run.returncode == 0, run.stderr
    lines = [tuple(map(float, line.split())) for line in run.stdout.splitlines()]
    assert len(lines) == len(folders) > 10
    assert max(cpu_s for cpu_s, _ in lines) < 2
    assert max(mib for _, mib in lines) < 64


@pytest.mark.parametrize(
    "harm",
    ["calibration.npz: log_likelihoods is of nan", pytest.param("feature_size is null", marks=pytest.mark.long)],
)
@pytest.mark.parametrize("command", ["verify", *JOBS])
def test_every_command_ends_with_bad_data(copy: Path, tmp_path: Path, portrait: bytes, command: str, harm: str) -> None:
    """For every command the exit code is 65 and the last line is the sentence."""
    HARMS[harm](copy)
    verifies = command == "verify"
    run = run_command("bundle", "verify", copy) if verifies else run_job(command, copy, tmp_path, portrait)
    assert run.returncode == 65, run.stderr
    assert "calibration.npz" in run.stdout + run.stderr or "feature_size" in run.stdout + run.stderr
    assert "Traceback" not in run.stderr
