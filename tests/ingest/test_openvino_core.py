"""Signals are handled after networks were closed, and OpenVINO sends no telemetry."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

FIRST_OPENED_FIRST_CLOSED = """
import signal, sys
from pathlib import Path
from ingest.detect import DetectorSpec, load_detector

root = Path(sys.argv[1])
first = load_detector(root, DetectorSpec(), 1)
second = load_detector(root, DetectorSpec(), 1)
del first
del second
seen = []
signal.signal(signal.SIGTERM, lambda *_: seen.append("seen"))
signal.raise_signal(signal.SIGTERM)
print(*seen)
"""


def test_a_signal_is_handled_after_networks_are_closed_in_any_order(root: Path) -> None:
    """A handler runs after two networks were closed in the order in which they were opened."""
    bundle = str(root / "model_repository")
    ended = subprocess.run(
        [sys.executable, "-c", FIRST_OPENED_FIRST_CLOSED, bundle], cwd=root, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr or ended.returncode
    assert ended.stdout == "seen\n"


@pytest.mark.slow
def test_openvino_writes_nothing_to_the_home_folder(root: Path, tmp_path: Path) -> None:
    """Finding faces, scoring and exporting write no id of the user, whichever module is imported first."""
    for first in ("ingest.yunet", "scorer.engines.openvino", "training.export.openvino, nncf"):
        program = f"import {first}; import openvino_telemetry"
        ended = subprocess.run(
            [sys.executable, "-c", program],
            cwd=root,
            env=os.environ | {"HOME": str(tmp_path)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert "import of openvino_telemetry halted" in ended.stderr, ended.stderr
        assert not list(tmp_path.iterdir())
