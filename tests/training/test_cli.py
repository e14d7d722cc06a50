"""The command `unlensed-train`: its errors and exit codes."""

import subprocess
import sys
from pathlib import Path

import pytest

from training.cli import main

COMPARE = ["compare", "{run}", "--real", "{run}", "--generated", "g={run}", "--out", "{run}"]


@pytest.mark.parametrize(
    ("arguments", "code", "named"),
    [
        (["train", "{run}", "--recipe", "papr"], 2, "papr"),
        (["train", "{run}", "--device", "tpu"], 2, "tpu"),
        (["train", "{run}"], 65, "prepare"),
        (["evaluate", "{run}", "--generated", "{run}", "--features", "clip"], 2, "NAME=PATH"),
        (["import", "{run}/weights.pth", "--out", "{run}/out.safetensors", "--kind", "clip"], 2, "clip"),
        (["import", "{run}/weights.pth", "--out", "{run}/out.safetensors"], 65, "weights.pth"),
        (["prepare", "{run}"], 2, "give --photos"),
        (["prepare", "{run}", "--photos", "."], 2, "give --landmarks"),
        (["prepare", "{run}", "--photos", ".", "--landmarks", ".", "--shares", "train=2"], 65, "share"),
        ([*COMPARE, "--detectors", "bundle,gan"], 2, "'gan'"),
        ([*COMPARE, "--generated", "portraits"], 2, "NAME=PATH"),
        (["fit", "{run}", "--precision", "fp8"], 2, "fp8 is for GPUs (--target tensorrt)"),
        (["fit", "{run}", "--components", "4,x"], 2, "no list of whole numbers"),
        (["fit", "{run}", "--target", "tensorrt"], 65, "unlensed-train train"),
        (["calibrate", "{run}", "--target", "tensorrt"], 65, "--target tensorrt"),
        (["fit", "s3://bucket/run"], 2, "s3://bucket/run is a URI"),
        (["export", "{run}", "--out", "s3://bucket/run"], 2, "s3://bucket/run is a URI"),
        (["import", "{run}/weights.pth", "--out", "s3://bucket/run"], 2, "s3://bucket/run is a URI"),
    ],
)
def test_errors_name_the_cause(
    arguments: list[str],
    code: int,
    named: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The error of each wrong call names the cause, and the exit code is that of its kind."""
    monkeypatch.setattr(sys, "argv", ["unlensed-train", *(text.format(run=tmp_path) for text in arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == code
    assert named in capsys.readouterr().err
    assert not list(tmp_path.iterdir()), "refused before any work"


def test_help_loads_no_framework() -> None:
    """The help imports neither PyTorch nor DALI."""
    program = "import sys, training.cli; print('torch' in sys.modules, 'nvidia.dali' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
