"""More than the service can do: it does what it can, the rest waits in Kafka, and nothing grows."""

import os
import threading
import time
from collections.abc import Callable
from statistics import median

import psutil

from tests.faults.stage import Stage

SECONDS = int(os.environ.get("UNLENSED_OVERLOAD_S", "240"))
SETTLE_S = 120
RSS_TOLERANCE = 0.05
WINDOW = 30  # readings, about a second apart
TIMES_CAPACITY = 3


def test_overload_grows_the_lag_and_nothing_else(stage: Stage, say: Callable[[str], None]) -> None:
    """At three times the capacity the lag grows while the worker's memory stays where it was."""
    worker = stage.worker("worker")
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
    process, sizes, lags = psutil.Process(worker.pid), [], []
    started_s = time.monotonic()
    try:
        while (elapsed_s := time.monotonic() - started_s) < SECONDS:
            stage.results.read(1)
            if elapsed_s > SETTLE_S:
                sizes.append(process.memory_info().rss / 2**20)
                lags.append(worker.read_metric("unlensed_lag_records"))
    finally:
        stop.set()
        thread.join()
    answered = len(stage.results.verdict.answers)
    say(
        f"overload, {stage.traffic.sent} sent and {answered} answered in {SECONDS} s: RSS {sizes[0]:.0f} MiB after "
        f"{SETTLE_S} s, {min(sizes):.0f} to {max(sizes):.0f} MiB since; lag {lags[0]:.0f} -> {lags[-1]:.0f}"
    )
    assert worker.pid
    assert stage.traffic.sent > (TIMES_CAPACITY - 0.5) * answered, "this was no overload"
    assert lags[-1] > lags[0]
    # Single readings swing by what the client has fetched or not (8 MiB) and by what the allocator has just given back:
    # whether anything grows, the medians and the peaks say.
    first, last = sizes[:WINDOW], sizes[-WINDOW:]
    assert abs(median(last) / median(first) - 1) <= RSS_TOLERANCE
    assert max(sizes) / max(first) - 1 <= RSS_TOLERANCE
    assert worker.stop() == 0
