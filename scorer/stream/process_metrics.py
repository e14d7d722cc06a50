"""`process_*` of the whole service: CPU and memory of the processes that find faces are counted with its own.

They do most of the work where requests bring no boxes, and the client's collector knows of one process only.
"""

import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import suppress

import psutil
from prometheus_client import Metric, ProcessCollector
from prometheus_client.registry import Collector


class ServiceProcessCollector(Collector):
    """The client's `ProcessCollector`, with living children and those that have ended; thread-safe."""

    def __init__(self) -> None:
        self._own = ProcessCollector(registry=None)
        self._lock = threading.Lock()
        self._cpu_s = 0.0

    def collect(self) -> Iterable[Metric]:
        """Return the families of this process, two of them for all."""
        with self._lock:
            ended = os.times()
            families = {family.name: family for family in self._own.collect()}
            living = list(_read_children())
            if "process_cpu_seconds" in families:  # not where there is no /proc
                cpu_s = ended.children_user + ended.children_system + sum(cpu_s for cpu_s, _ in living)
                # Who ends between the two readings is missed once; a counter must not fall for that.
                self._cpu_s = max(self._cpu_s, cpu_s + _get(families["process_cpu_seconds"]))
                _set(families["process_cpu_seconds"], self._cpu_s)
                resident = families["process_resident_memory_bytes"]
                _set(resident, _get(resident) + sum(size for _, size in living))
            return families.values()


def _read_children() -> Iterator[tuple[float, int]]:
    """Yield CPU seconds and resident bytes of each living child."""
    for child in psutil.Process().children():
        with suppress(psutil.NoSuchProcess):  # it has ended
            times = child.cpu_times()
            yield times.user + times.system, child.memory_info().rss


def _get(family: Metric) -> float:
    return family.samples[0].value


def _set(family: Metric, value: float) -> None:
    family.samples = [family.samples[0]._replace(value=value)]
