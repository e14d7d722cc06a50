"""The watchdog, in child processes because it exits them."""

import subprocess
import sys
from pathlib import Path

PROGRAM = """
import threading, time
from scorer.stream.watchdog import Watchdog
watchdog = Watchdog({limit_s}, "a test")
for _ in range(3):
    with watchdog:
        pass
with watchdog:
    time.sleep({sleep_s})
watchdog.close()
"""


def run(root: Path, limit_s: float, sleep_s: float) -> subprocess.CompletedProcess[str]:
    """Run a process that is watched for `limit_s` and sleeps for `sleep_s`."""
    program = PROGRAM.format(limit_s=limit_s, sleep_s=sleep_s)
    return subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=False)


def test_a_call_that_does_not_return_exits_the_process(root: Path) -> None:
    """Exit code 75 and one sentence."""
    ended = run(root, 0.2, 60)
    assert ended.returncode == 75
    assert len(ended.stderr.splitlines()) == 1
    assert "this process exits" in ended.stderr


def test_calls_that_return_exit_nothing(root: Path) -> None:
    """However often it is entered, each time counts by itself."""
    ended = run(root, 30, 0)
    assert (ended.returncode, ended.stderr) == (0, "")
