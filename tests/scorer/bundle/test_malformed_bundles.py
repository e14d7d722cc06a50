"""Any fault of a bundle gives one sentence and exit code 65, without much memory or time."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from scorer.bundle.bundle import Bundle
from scorer.errors import BundleMismatch
from scorer.local_scorer import LocalScorer
from scorer.settings import Settings
from tests.conftest import ROOT
from tests.scorer.bundle.malformed_bundles import list_harms

UNLENSED = Path(sys.executable).parent / "unlensed"
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
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("UNLENSED_")}


@pytest.fixture
def copy(starter: Bundle, tmp_path: Path) -> Path:
    """A private copy of the starter bundle to damage."""
    return Path(shutil.copytree(starter.folder, tmp_path / "bundle"))


@pytest.mark.parametrize("harm", HARMS.values(), ids=HARMS)
def test_a_malformed_bundle_is_refused(copy: Path, harm: Callable[[Path], object]) -> None:
    """Every fault, in the manifest, an array or a file, raises the bundle's own error with one sentence."""
    harm(copy)
    with pytest.raises(BundleMismatch, match=r"\S"):
        LocalScorer(Settings(bundle=copy, threads=1))


@pytest.mark.slow
def test_bombs_take_no_memory(copy: Path) -> None:
    """An array that inflates to far more than its shape is refused for less than 2 s of CPU and 64 MiB."""
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


COMMANDS = {
    "verify": "bundle verify {bundle}",
    "score": "score {image} --bundle {bundle}",
    "scan": "scan {folder} --out {out} --bundle {bundle}",
    "serve": "serve --replay {requests} --bundle {bundle}",
    "doctor": "doctor --bundle {bundle}",
}


@pytest.mark.parametrize(
    "harm", ["calibration.npz: log_likelihoods is of nan", pytest.param("feature_size is null", marks=pytest.mark.long)]
)
@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_ends_with_bad_data(copy: Path, tmp_path: Path, portrait: bytes, command: str, harm: str) -> None:
    """For every command the exit code is 65 and the last line is the sentence."""
    HARMS[harm](copy)
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(portrait)
    (tmp_path / "requests.jsonl").write_text('{"request_id": "a"}\n')
    places = {
        "bundle": copy,
        "image": tmp_path / "images" / "a.png",
        "folder": tmp_path / "images",
        "out": tmp_path / "run",
        "requests": tmp_path / "requests.jsonl",
    }
    arguments = [part.format(**places) for part in COMMANDS[command].split()]
    run = subprocess.run(
        [UNLENSED, *arguments], env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=120
    )
    assert run.returncode == 65, run.stderr
    assert "calibration.npz" in run.stdout + run.stderr or "feature_size" in run.stdout + run.stderr
    assert "Traceback" not in run.stderr
