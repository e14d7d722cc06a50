"""Restarts of brokers, engines and workers: records wait, and processing resumes."""

import os
import time
from collections.abc import Callable

from deploy.local.kafka import KafkaServer
from deploy.local.triton import TritonServer
from tests.faults.stage import Stage

RESTARTS = int(os.environ.get("UNLENSED_RESTARTS", "2"))
RECORDS = 150
DOWN_S = 3
TRITON_RECOVERY_S = 30
KAFKA_RECOVERY_S = 60


def survive_restarts(stage: Stage, server: KafkaServer | TritonServer, limit_s: float) -> list[float]:
    """Kill and restart a server `RESTARTS` times under load; return the seconds from each start to the last answer."""
    worker = stage.worker("worker")
    worker.start()
    worker.wait_ready()
    recoveries = []
    for _ in range(RESTARTS):
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
    """When Triton is killed during a batch, no record is lost, and processing resumes soon after its restart."""
    recoveries = survive_restarts(stage, stage.triton, TRITON_RECOVERY_S)
    say(f"{RESTARTS} Triton restarts: recovered after {', '.join(f'{s:.1f}' for s in recoveries)} s")
    assert max(recoveries) <= TRITON_RECOVERY_S


def test_kafka_restarts(stage: Stage, say: Callable[[str], None]) -> None:
    """When the broker is killed, no record is lost, and the same worker process resumes after its restart."""
    recoveries = survive_restarts(stage, stage.kafka, KAFKA_RECOVERY_S)
    say(
        f"{RESTARTS} Kafka restarts: recovered after {', '.join(f'{s:.1f}' for s in recoveries)} s, "
        f"{stage.results.verdict.duplicates} duplicates"
    )
    assert max(recoveries) <= KAFKA_RECOVERY_S


def test_workers_join_and_leave(stage: Stage, say: Callable[[str], None]) -> None:
    """Rebalances by workers that join and leave in order lose no record and repeat none."""
    workers = [stage.worker("worker-0")]
    workers[0].start()
    workers[0].wait_ready()
    for number in range(1, RESTARTS + 1):
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
    lost = verdict.missing(stage.traffic.expected())
    say(f"{RESTARTS} rebalances: {len(lost)} lost, {verdict.duplicates} duplicates")
    assert not lost
    assert not verdict.conflicting
    assert not verdict.dead
    assert verdict.duplicates == 0
