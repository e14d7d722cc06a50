"""CPU and memory of child processes are counted with the worker's own."""

import subprocess
import sys
import time

from prometheus_client import CollectorRegistry

from scorer.stream.process_metrics import ServiceProcessCollector

BUSY = """
import sys, time
held = bytearray(100 << 20)
while time.process_time() < 0.5:
    pass
print(flush=True)
sys.stdin.read()
"""


def read(registry: CollectorRegistry) -> tuple[float, float]:
    """Return CPU seconds and resident bytes."""
    values = [registry.get_sample_value(f"process_{name}") for name in ("cpu_seconds_total", "resident_memory_bytes")]
    cpu_s, resident = values
    assert cpu_s is not None
    assert resident is not None
    return cpu_s, resident


def test_running_and_ended_children_are_counted() -> None:
    """A child's half second stays counted after its end, its 100 MiB do not."""
    registry = CollectorRegistry()
    registry.register(ServiceProcessCollector())
    own_s = time.process_time()
    before_s, before = read(registry)
    with subprocess.Popen([sys.executable, "-c", BUSY], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        child.stdout.readline()
        during_s, during = read(registry)
        child.communicate()
    after_s, after = read(registry)
    slack_s = time.process_time() - own_s + 0.3  # the child's own start, and ticks of 10 ms
    assert 0.45 <= during_s - before_s <= 0.5 + slack_s
    assert during - before > 90 << 20
    assert during_s <= after_s <= during_s + slack_s
    assert abs(after - before) < 50 << 20


def test_all_of_the_clients_metrics_are_there() -> None:
    """Start time, open files and the others are the client's."""
    names = {family.name for family in ServiceProcessCollector().collect()}
    assert {"process_start_time_seconds", "process_open_fds", "process_max_fds"} <= names
