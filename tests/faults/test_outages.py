"""Brokers, engines and workers that come and go: work waits, and goes on."""

import time
from collections.abc import Callable

from deploy.local.kafka import KafkaServer
from deploy.local.triton import TritonServer
from tests.faults.stage import Stage

TIMES = 5
RECORDS = 150
DOWN_S = 3
TRITON_RECOVERY_S = 30
KAFKA_RECOVERY_S = 60


def survive_restarts(stage: Stage, server: KafkaServer | TritonServer, limit_s: float) -> list[float]:
    """Kill a server in mid-batch again and again; return the seconds from each start to the last answer."""
    worker = stage.worker("worker")
    worker.start()
    worker.wait_ready()
    recoveries = []
    for _ in range(TIMES):
        stage.traffic.send(RECORDS)
        stage.results.read(0.5)
        server.kill()
        time.sleep(DOWN_S)
        assert worker.pid
        server.start()
        recoveries.append(_recover(stage, limit_s))
    verdict = stage.results.verdict
    assert not verdict.missing(stage.traffic.expected())
    assert not verdict.conflicting
    assert not verdict.dead
    assert worker.stop() == 0
    return recoveries


def _recover(stage: Stage, limit_s: float) -> float:
    """Return the seconds until every record so far is answered, at most twice `limit_s`."""
    since_s = time.monotonic()
    stage.results.read_until(stage.traffic.expected(), 2 * limit_s)
    return time.monotonic() - since_s


def test_triton_restarts(stage: Stage, say: Callable[[str], None]) -> None:
    """Killed in mid-batch five times, the engine costs no record, and work goes on soon after it is back."""
    recoveries = survive_restarts(stage, stage.triton, TRITON_RECOVERY_S)
    say(f"{TIMES} Triton restarts: recovered after {', '.join(f'{s:.1f}' for s in recoveries)} s")
    assert max(recoveries) <= TRITON_RECOVERY_S


def test_kafka_restarts(stage: Stage, say: Callable[[str], None]) -> None:
    """Killed five times, the broker costs no record; the same worker goes on when it is back."""
    recoveries = survive_restarts(stage, stage.kafka, KAFKA_RECOVERY_S)
    say(
        f"{TIMES} Kafka restarts: recovered after {', '.join(f'{s:.1f}' for s in recoveries)} s, "
        f"{stage.results.verdict.duplicates} duplicates"
    )
    assert max(recoveries) <= KAFKA_RECOVERY_S


def test_workers_come_and_go(stage: Stage, say: Callable[[str], None]) -> None:
    """Five rebalances, by workers that join and leave in good order, lose nothing and repeat nothing."""
    workers = [stage.worker("worker-0")]
    workers[0].start()
    workers[0].wait_ready()
    for number in range(1, TIMES + 1):
        stage.traffic.send(RECORDS)
        if number % 2:
            workers.append(stage.worker(f"worker-{number}", kafka__instance_id=""))
            workers[-1].start()
            workers[-1].wait_ready()
        else:
            assert workers.pop(0).stop() == 0
        stage.results.read(2)
    _recover(stage, KAFKA_RECOVERY_S)
    stage.results.read(2)
    verdict = stage.results.verdict
    say(f"{TIMES} rebalances: {len(verdict.missing(stage.traffic.expected()))} lost, {verdict.duplicates} duplicates")
    assert not verdict.missing(stage.traffic.expected())
    assert not verdict.conflicting
    assert not verdict.dead
    assert verdict.duplicates == 0
