"""The `process_*` metrics of the whole service: CPU and memory of its own and of the detector's processes.

The detector's processes do most of the work where requests contain no boxes; the client's collector measures only one
process.
"""

import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import suppress

import psutil
from prometheus_client import Metric, ProcessCollector
from prometheus_client.registry import Collector


class ServiceProcessCollector(Collector):
    """The client's `ProcessCollector`, with running and ended child processes; thread-safe."""

    def __init__(self) -> None:
        self._own = ProcessCollector(registry=None)
        self._lock = threading.Lock()
        self._cpu_s = 0.0

    def collect(self) -> Iterable[Metric]:
        """Return the metrics of this process; CPU and memory include its child processes."""
        with self._lock:
            ended = os.times()
            families = {family.name: family for family in self._own.collect()}
            running = list(_read_children())
            if "process_cpu_seconds" in families:  # not where there is no /proc
                cpu_s = ended.children_user + ended.children_system + sum(cpu_s for cpu_s, _ in running)
                # A child that ends between the two readings is missed once; a counter must not decrease.
                self._cpu_s = max(self._cpu_s, cpu_s + _get(families["process_cpu_seconds"]))
                _set(families["process_cpu_seconds"], self._cpu_s)
                resident = families["process_resident_memory_bytes"]
                _set(resident, _get(resident) + sum(size for _, size in running))
            return families.values()


def _read_children() -> Iterator[tuple[float, int]]:
    """Yield CPU seconds and resident bytes of each running child process."""
    for child in psutil.Process().children():
        with suppress(psutil.NoSuchProcess):  # it has ended
            times = child.cpu_times()
            yield times.user + times.system, child.memory_info().rss


def _get(family: Metric) -> float:
    return family.samples[0].value


def _set(family: Metric, value: float) -> None:
    family.samples = [family.samples[0]._replace(value=value)]
