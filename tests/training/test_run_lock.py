"""A folder that one process writes is not written by a second one."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from scorer.errors import TrainingInterrupted
from training.run_lock import hold_folder

HOLD = """
import pathlib, sys
from training.run_lock import hold_folder
with hold_folder(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read(1)
"""


def start_holder(folder: Path) -> "subprocess.Popen[str]":
    """Return a process that holds the folder until it is killed or reads a character."""
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    return holder


def test_a_second_process_is_refused_until_the_first_is_killed(tmp_path: Path) -> None:
    """The message names the folder and the remedy; a kill frees the folder."""
    folder = tmp_path / "run"
    holder = start_holder(folder)
    refused = re.escape(f"another process works in {folder}: when it has ended")
    with pytest.raises(TrainingInterrupted, match=refused), hold_folder(folder):
        pass
    holder.kill()
    holder.communicate()
    with hold_folder(folder):
        pass


def test_a_waiting_process_continues_after_the_first(tmp_path: Path) -> None:
    """With `wait`, the block begins when the other process has ended."""
    holder = start_holder(tmp_path)
    second = subprocess.Popen(
        [sys.executable, "-c", HOLD.replace("1])", "1]), wait=True", 1), str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with pytest.raises(subprocess.TimeoutExpired):
        second.wait(1)
    holder.communicate("x")
    output, _ = second.communicate("x", timeout=60)
    assert output == "held\n"
