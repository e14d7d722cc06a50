"""More than the service can do: it does what it can, the rest waits in Kafka, and nothing grows."""

import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median

import psutil

from deploy.local.worker import Worker
from tests.faults.stage import Stage

SECONDS = int(os.environ.get("UNLENSED_OVERLOAD_S", "240"))
SETTLE_S = 120
RSS_TOLERANCE = 0.05
WINDOW = 30  # readings, about a second apart
TIMES_CAPACITY = 3
LEAK_BYTES = 4096

# The real service, which keeps something of every record that it touches.
LEAKY = f"""
import os
from scorer.stream import pipeline
locate, kept = pipeline.locate_faces, []
def leak(*arguments):
    kept.append(os.urandom({LEAK_BYTES}))
    return locate(*arguments)
pipeline.locate_faces = leak
from scorer.commands.main import main
main()
"""


@dataclass(slots=True)
class Readings:
    """What was read of a worker once it had settled, each about a second apart: MiB, records, records."""

    sizes: list[float] = field(default_factory=list)
    lags: list[float] = field(default_factory=list)
    answered: list[int] = field(default_factory=list)

    def describe(self, sent: int) -> str:
        """Return the figures for a person."""
        first, last = median(self.sizes[:WINDOW]), median(self.sizes[-WINDOW:])
        records = median(self.answered[-WINDOW:]) - median(self.answered[:WINDOW])
        return (
            f"{sent} sent and {self.answered[-1]} answered in {SECONDS} s: RSS {first:.0f} -> {last:.0f} MiB "
            f"({min(self.sizes):.0f} to {max(self.sizes):.0f}) over {records:.0f} records, "
            f"{(last - first) * 2**20 / records:+.0f} bytes a record; lag {self.lags[0]:.0f} -> {self.lags[-1]:.0f}"
        )


def stays_as_it_is(sizes: Sequence[float]) -> bool:
    """Say whether memory neither grew nor fell.

    Single readings swing by what the client has fetched or not (8 MiB) and by what the allocator has just given back:
    whether anything grows, the medians and the peaks say.
    """
    first, last = sizes[:WINDOW], sizes[-WINDOW:]
    moved = abs(median(last) / median(first) - 1), max(sizes) / max(first) - 1
    return max(moved) <= RSS_TOLERANCE


def overload(stage: Stage, worker: Worker) -> Readings:
    """Give a worker three times what it can do for `SECONDS`, and return what it was like meanwhile."""
    worker.start()
    worker.wait_ready()
    stage.traffic.send(200)  # warms up
    stage.results.read_until(stage.traffic.expected(), 120)
    stop = threading.Event()

    def flood() -> None:
        while not stop.wait(1):
            # What the worker can do beside the producer, shown by what it did: whatever else the machine is busy with.
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


def test_overload_grows_the_lag_and_nothing_else(stage: Stage, say: Callable[[str], None]) -> None:
    """At three times the capacity the lag grows while the worker's memory stays where it was."""
    worker = stage.worker("worker")
    readings = overload(stage, worker)
    say(f"overload, {readings.describe(stage.traffic.sent)}")
    assert worker.pid
    assert stage.traffic.sent > (TIMES_CAPACITY - 0.5) * readings.answered[-1], "this was no overload"
    assert readings.lags[-1] > readings.lags[0]
    assert stays_as_it_is(readings.sizes)
    assert worker.stop() == 0


def test_a_worker_that_leaks_is_found(stage: Stage, say: Callable[[str], None]) -> None:
    """Memory of a worker that keeps 4 KB of every record does not stay as it is: the test above can fail."""
    worker = stage.worker("worker", LEAKY)
    readings = overload(stage, worker)
    say(f"a leak of {LEAK_BYTES} bytes a record, {readings.describe(stage.traffic.sent)}")
    assert worker.pid
    assert not stays_as_it_is(readings.sizes)
    assert worker.stop() == 0
