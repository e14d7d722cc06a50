"""The machine of a report: hardware, driver, and the GPU's clocks and power while a part runs. No name of a host."""

import ctypes
import os
import platform
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parent.parent.parent
FACTS = ("name", "driver_version", "memory.total", "power.limit", "clocks.max.sm", "clocks.max.memory", "compute_cap")
SAMPLED = {"clocks.sm": "sm_mhz", "clocks.mem": "memory_mhz", "power.draw": "power_w", "temperature.gpu": "celsius"}
SAMPLED |= {"utilization.gpu": "busy_percent", "memory.used": "memory_mib"}
SAMPLE_MS = 500


def describe_machine() -> dict[str, object]:
    """Return the properties of this machine on which figures depend."""
    cpu = next((line for line in _read("/proc/cpuinfo").splitlines() if line.startswith("model name")), "")
    memory = next((line for line in _read("/proc/meminfo").splitlines() if line.startswith("MemTotal")), "0 0").split()
    return {
        "gpus": _query_gpus(),
        "cpu": cpu.partition(":")[2].strip() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(int(memory[1]) / 2**20, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
    }


def describe_commit() -> str:
    """Return the commit that is checked out, marked where files differ from it; "unknown" outside a checkout."""
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        return "unknown"
    answers = [
        subprocess.run([git, "-C", str(ROOT), *words], capture_output=True, text=True, check=False)
        for words in (("rev-parse", "HEAD"), ("status", "--porcelain", "--untracked-files=no"))
    ]
    if answers[0].returncode:
        return "unknown"
    return answers[0].stdout.strip() + (" and changes" if answers[1].stdout.strip() else "")


def read_energy_j() -> float | None:
    """Return what the first GPU has used since its driver was loaded; None where NVML does not state it."""
    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return None
    handle, millijoules = ctypes.c_void_p(), ctypes.c_ulonglong()
    if (
        nvml.nvmlInit_v2()
        or nvml.nvmlDeviceGetHandleByIndex_v2(0, ctypes.byref(handle))
        or nvml.nvmlDeviceGetTotalEnergyConsumption(handle, ctypes.byref(millijoules))
    ):
        return None
    return millijoules.value / 1000


@contextmanager
def watch_gpu(log: Path) -> Iterator[None]:
    """Sample clocks, power and memory of the first GPU into `log` while the block runs."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        yield
        return
    command = [tool, "--id=0", f"--query-gpu={','.join(SAMPLED)}", "--format=csv,noheader,nounits", f"-lms={SAMPLE_MS}"]
    with log.open("w") as file:
        watcher = subprocess.Popen(command, stdout=file, stderr=subprocess.DEVNULL)
        try:
            yield
        finally:
            watcher.terminate()
            watcher.wait()


def read_watch(log: Path) -> dict[str, dict[str, float]]:
    """Return median and maximum of the samples by quantity, without quantities that the GPU does not report."""
    rows = [line.split(",") for line in _read(log).splitlines()]
    figures = {}
    for column, name in enumerate(SAMPLED.values()):
        values = [float(row[column]) for row in rows if len(row) == len(SAMPLED) and _is_number(row[column])]
        if values:
            figures[name] = {"median": median(values), "max": max(values)}
    return figures


def _query_gpus() -> list[dict[str, str]]:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    command = [tool, f"--query-gpu={','.join(FACTS)}", "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    except subprocess.TimeoutExpired:
        return []
    lines = answer.stdout.splitlines() if answer.returncode == 0 else []
    return [dict(zip(FACTS, map(str.strip, line.split(",")), strict=False)) for line in lines]


def _is_number(text: str) -> bool:
    return text.strip().replace(".", "", 1).isdigit()


def _read(path: str | Path) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""
