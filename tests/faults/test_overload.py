"""Overload: the service works at its capacity, the other records wait in Kafka, and memory does not grow."""

import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median

import psutil

from deploy.local.worker import Worker
from tests.faults.stage import Stage

SECONDS = int(os.environ.get("UNLENSED_OVERLOAD_S", "160"))
SETTLE_S = min(120, SECONDS // 2)  # not measured: memory still grows after the start
RSS_TOLERANCE = 0.05
WINDOW = 30  # readings, about a second apart
TIMES_CAPACITY = 3
LEAK_BYTES = 4096 * 240 // SECONDS  # a record: the leak of a run is the same at any length

# The real service with a leak: it keeps some bytes for every record.
LEAKY = f"""
import os
from scorer.stream import pipeline
locate, kept = pipeline.locate_faces, []
def leak(*arguments, **options):
    kept.append(os.urandom({LEAK_BYTES}))
    return locate(*arguments, **options)
pipeline.locate_faces = leak
from scorer.commands.main import main
main()
"""


@dataclass(slots=True)
class Readings:
    """Readings of a worker after it settled, about one a second: MiB, records, records."""

    sizes: list[float] = field(default_factory=list)
    lags: list[float] = field(default_factory=list)
    answered: list[int] = field(default_factory=list)

    def describe(self, sent: int) -> str:
        """Return the figures as text."""
        first, last = median(self.sizes[:WINDOW]), median(self.sizes[-WINDOW:])
        records = median(self.answered[-WINDOW:]) - median(self.answered[:WINDOW])
        return (
            f"{sent} sent and {self.answered[-1]} answered in {SECONDS} s: RSS {first:.0f} -> {last:.0f} MiB "
            f"({min(self.sizes):.0f} to {max(self.sizes):.0f}) over {records:.0f} records, "
            f"{(last - first) * 2**20 / records:+.0f} bytes a record; lag {self.lags[0]:.0f} -> {self.lags[-1]:.0f}"
        )


def is_stable(sizes: Sequence[float]) -> bool:
    """Return whether memory neither grew nor fell.

    Single readings vary by what the client has fetched (8 MiB) and by what the allocator returned to the system. The
    medians and the peaks of the first and last readings show growth.
    """
    first, last = sizes[:WINDOW], sizes[-WINDOW:]
    moved = abs(median(last) / median(first) - 1), max(sizes) / max(first) - 1
    return max(moved) <= RSS_TOLERANCE


def overload(stage: Stage, worker: Worker) -> Readings:
    """Send a worker three times its capacity for `SECONDS`; return the readings."""
    worker.start()
    worker.wait_ready()
    stage.traffic.send(200)  # warms up
    stage.results.read_until(stage.traffic.expected(), 120)
    stop = threading.Event()

    def flood() -> None:
        while not stop.wait(1):
            # The capacity is what the worker has answered so far, whatever else runs on this machine.
            wanted = TIMES_CAPACITY * len(stage.results.verdict.answers) - stage.traffic.sent
            stage.traffic.send(max(wanted, 200))

    thread = threading.Thread(target=flood, daemon=True)
    thread.start()
    process, readings = psutil.Process(worker.pid), Readings()
    started_s = time.monotonic()
    try:
        while (elapsed_s := time.monotonic() - started_s) < SECONDS:
            stage.results.read(1)
            if elapsed_s > SETTLE_S:
                readings.sizes.append(process.memory_info().rss / 2**20)
                readings.lags.append(worker.read_metric("unlensed_lag_records"))
                readings.answered.append(len(stage.results.verdict.answers))
    finally:
        stop.set()
        thread.join()
    return readings


def test_overload_increases_the_lag_and_not_the_memory(stage: Stage, say: Callable[[str], None]) -> None:
    """At three times the capacity the lag grows while the memory of the worker is stable."""
    worker = stage.worker("worker")
    readings = overload(stage, worker)
    say(f"overload, {readings.describe(stage.traffic.sent)}")
    assert worker.pid
    assert stage.traffic.sent > (TIMES_CAPACITY - 0.5) * readings.answered[-1], "the load was below the capacity"
    assert readings.lags[-1] > readings.lags[0]
    assert is_stable(readings.sizes)
    assert worker.stop() == 0


def test_a_leak_is_detected(stage: Stage, say: Callable[[str], None]) -> None:
    """The memory of a worker with a leak is not stable: the test above can fail."""
    worker = stage.worker("worker", LEAKY)
    readings = overload(stage, worker)
    say(f"a leak of {LEAK_BYTES} bytes a record, {readings.describe(stage.traffic.sent)}")
    assert worker.pid
    assert not is_stable(readings.sizes)
    assert worker.stop() == 0
