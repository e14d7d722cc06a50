"""Run a command and measure the CPU time and memory of it and its descendants."""

import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil

INTERVAL_S = 0.25
LIMIT_S = 1800.0
SHOWN_CHARACTERS = 2000


@dataclass(frozen=True, slots=True)
class Usage:
    """The CPU time and memory of a command.

    Attributes:
        began_s, ended_s: by the clock of `time.time`.
        times_s: of the samples, likewise.
        cpu_s: core-seconds of all processes until each sample.
        peak_bytes: resident memory of all processes at its highest; pages that processes share count in each.
    """

    began_s: float
    ended_s: float
    times_s: Sequence[float]
    cpu_s: Sequence[float]
    peak_bytes: int

    def cpu_between(self, from_s: float, until_s: float) -> float:
        """Return core-seconds between two times."""
        until, since = np.interp((until_s, from_s), self.times_s, self.cpu_s)
        return float(until - since)


def run_watched(command: Sequence[str], log: Path, environment: Mapping[str, str], folder: Path) -> Usage:
    """Run a command to its end, its output in `log`.

    Raises:
        RuntimeError: it fails, or takes longer than half an hour.
    """
    began_s = time.time()
    times_s, cpu_s, peak_bytes = [began_s], [0.0], 0
    with (
        log.open("wb") as output,
        psutil.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=dict(environment), cwd=folder) as process,
    ):
        while process.poll() is None:
            used_s, resident = _read(process)
            times_s.append(time.time())
            cpu_s.append(max(used_s, cpu_s[-1]))
            peak_bytes = max(peak_bytes, resident)
            if times_s[-1] - began_s > LIMIT_S:
                for each in (*process.children(recursive=True), process):
                    each.kill()
            time.sleep(INTERVAL_S)
    if process.returncode:
        tail = log.read_text(encoding="utf-8", errors="replace")[-SHOWN_CHARACTERS:]
        message = f"{' '.join(command)} ended with {process.returncode}:\n{tail}"
        raise RuntimeError(message)
    return Usage(began_s, time.time(), times_s, cpu_s, peak_bytes)


def _read(root: psutil.Process) -> tuple[float, int]:
    """Return core-seconds and resident bytes of a process and its descendants, with the seconds of exited ones."""
    used_s, resident = 0.0, 0
    try:
        processes = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return used_s, resident
    for process in processes:
        try:
            with process.oneshot():
                used_s += sum(process.cpu_times()[:4])
                resident += process.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return used_s, resident
