"""SIGSTOP of a worker for longer than its session, as in a paused virtual machine: no crash is assumed."""

import os
import signal
import time
from collections.abc import Callable

import pytest

from tests.faults.stage import Stage

PAUSES = int(os.environ.get("UNLENSED_RESTARTS", "2"))
RECORDS = 300 * PAUSES
PAUSE_S = 9  # the session is 6 s
BETWEEN_PAUSES = 200  # answers
FINISH_S = 300
DIED = "a worker crashed; its records are processed alone"


@pytest.mark.parametrize("count", [1, 2])
def test_a_paused_worker_is_not_taken_for_a_crashed_one(stage: Stage, count: int, say: Callable[[str], None]) -> None:
    """A worker that pauses with records in flight loses its partitions but no record; none becomes a dead letter.

    A single worker finds its own notes when it resumes, and isolates no record. A second worker cannot know that the
    first one is alive: it processes each record that the first had in flight alone, once.
    """
    workers = [stage.worker(f"worker-{number}") for number in range(count)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.wait_ready()
    paused = workers[0].pid
    assert paused
    started_s = time.monotonic()
    for pause in range(PAUSES):
        stage.traffic.send(RECORDS * (pause + 1) // PAUSES - stage.traffic.sent)
        aim = min(len(stage.results.verdict.answers) + BETWEEN_PAUSES, stage.traffic.sent - 50)
        while len(stage.results.verdict.answers) < aim:
            stage.results.read(0.05)
        os.kill(paused, signal.SIGSTOP)
        stage.results.read(PAUSE_S)
        os.kill(paused, signal.SIGCONT)
        stage.results.read(2)
    everything = stage.traffic.expected()
    answered = stage.results.read_until(everything, FINISH_S)
    stage.results.read(2)
    verdict, took_s = stage.results.verdict, time.monotonic() - started_s
    crashes = [event for worker in workers for event in worker.read_events() if event.get("event") == DIED]
    alone = sum(worker.read_metric("unlensed_isolated_records_total") for worker in workers)
    lost = sum("partitions lost" in event.get("event", "") for event in workers[0].read_events())
    say(
        f"{count} worker(s), {PAUSES} pauses of {PAUSE_S} s, {RECORDS} records in {took_s:.0f} s: "
        f"{len(verdict.missing(everything))} lost, {len(verdict.conflicting)} conflicting, {verdict.duplicates} "
        f"answered twice, {sum(verdict.dead.values())} dead letters; {lost} times partitions were lost, "
        f"{alone:.0f} records processed alone"
    )
    assert answered
    assert not verdict.conflicting
    assert not verdict.dead
    assert lost, "no pause was longer than a session"
    assert workers[0].pid == paused
    assert {int(event["crashes"]) for event in crashes} <= ({1} if count > 1 else set())
    assert alone == 0 or count > 1
    for worker in workers:
        assert worker.stop() == 0
