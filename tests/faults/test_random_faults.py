"""The rules of `tests/hostile/test_stream_machine.py`, drawn at random for a minute, on a real broker."""

import json
import os
import random
import signal
import time
from collections.abc import Callable

import pytest
from kafka import KafkaProducer

from deploy.local.worker import Worker
from tests.faults.outside_client import set_option
from tests.faults.stage import Stage
from tests.faults.test_poison import PROGRAM
from tests.faults.traffic import REQUESTS, RESULTS, make_request

SECONDS = int(os.environ.get("UNLENSED_RANDOM_S", "60"))
SEED = int(os.environ.get("UNLENSED_SEED", "1"))
WORKERS = 2
POISONS = 3
PAUSE_S = 8  # the session is 6 s
QUIET = 150  # answers between two faults, so that no record is in hand at three
MAX_RESULT_BYTES = 60_000  # less than one with as many attributes as a request may have
FINISH_S = 300
STARTS = 60
POISONED = PROGRAM.replace('request.request_id == "poison"', 'request.request_id.startswith("poison")')


class Chaos:
    """Sends, kills, pauses, stops and joins, as the generator says."""

    def __init__(self, stage: Stage, delivery: str) -> None:
        self._stage, self._rng = stage, random.Random(SEED)  # noqa: S311 - chooses what happens, no secret
        self._producer = KafkaProducer(bootstrap_servers=stage.kafka.bootstrap, max_request_size=8 << 20)
        self.workers = [
            stage.worker(f"worker-{number}", POISONED, stream__delivery=delivery) for number in range(WORKERS)
        ]
        self.dead: dict[str, str] = {}  # request id -> the error code of its dead letter
        self.done: list[str] = []
        self._aim = 0

    def act(self) -> None:
        """Let something happen."""
        self._stage.traffic.send(self._rng.randint(20, 80))
        self._rng.choice([self._send_bad, self._send_again, self._kill, self._pause, self._leave])()

    def revive(self) -> None:
        """Start every worker that does not run; one may have ended by a record's doing, none by a fault of its own."""
        for worker in self.workers:
            if not worker.pid:
                assert worker.exit_code in {None, 0, -signal.SIGKILL}, worker.read_log()[-2000:]
                worker.start()

    def close(self) -> None:
        """Hang up."""
        self._producer.close()

    def _send_bad(self) -> None:
        kinds = ["wrong_schema", "answer_too_large"]
        kinds += ["kills_worker"] * (list(self.dead.values()).count("kills_worker") < POISONS)
        code = self._rng.choice(kinds)
        name = "poison" if code == "kills_worker" else "bad"
        request = json.loads(make_request(f"{name}-{len(self.dead)}", self._stage.traffic.samples[0]))
        if code == "wrong_schema":
            request["faces"] = "no list"
        elif code == "answer_too_large":
            request["attributes"] = {f"{number}": "x" * 1000 for number in range(64)}
        self._send(request)
        self.dead[request["request_id"]] = code
        self.done.append(code)

    def _send_again(self) -> None:
        number = self._rng.randrange(self._stage.traffic.sent)
        samples = self._stage.traffic.samples
        self._send(json.loads(make_request(f"r{number:07d}", samples[number % len(samples)])))
        self.done.append("duplicate")

    def _send(self, request: dict[str, object]) -> None:
        self._producer.send(REQUESTS, value=json.dumps(request).encode(), key=b"%d" % self._rng.randrange(97))
        self._producer.flush(30)

    def _kill(self) -> None:
        if worker := self._victim():
            worker.kill()
            self.done.append("kill")

    def _pause(self) -> None:
        if worker := self._victim():
            assert worker.pid
            os.kill(worker.pid, signal.SIGSTOP)
            self._stage.results.read(PAUSE_S)
            os.kill(worker.pid, signal.SIGCONT)
            self.done.append("pause")

    def _leave(self) -> None:
        running = [worker for worker in self.workers if worker.pid and worker.find_url()]  # SIGTERM finds a handler
        if running:
            assert self._rng.choice(running).stop() == 0
            self.done.append("leave")

    def _victim(self) -> Worker | None:
        """Return a worker that may be hurt; none before enough was answered since the last one was."""
        answered = len(self._stage.results.verdict.answers)
        running = [worker for worker in self.workers if worker.pid]
        if answered < self._aim or not running:
            return None
        self._aim = answered + QUIET
        return self._rng.choice(running)


@pytest.mark.parametrize("delivery", ["at_least_once", "exactly_once"])
def test_whatever_happens_each_record_is_answered(stage: Stage, delivery: str, say: Callable[[str], None]) -> None:
    """Good requests have results that agree, each bad one its dead letter, and the workers get to the end."""
    stage.supervise_triton()
    set_option(stage.kafka.bootstrap, RESULTS, "max.message.bytes", MAX_RESULT_BYTES)
    chaos = Chaos(stage, delivery)
    started_s = time.monotonic()
    while time.monotonic() - started_s < SECONDS:
        chaos.revive()
        chaos.act()
        stage.results.read(1)
    everything = stage.traffic.expected() | chaos.dead.keys()
    for _ in range(STARTS):
        chaos.revive()
        if stage.results.read_until(everything, FINISH_S / STARTS):
            break
    stage.results.read(2)
    chaos.close()
    verdict, took_s = stage.results.verdict, time.monotonic() - started_s
    counts = {what: chaos.done.count(what) for what in sorted(set(chaos.done))}
    say(
        f"{delivery}, seed {SEED}: {counts} among {stage.traffic.sent} requests in {took_s:.0f} s: "
        f"{len(verdict.missing(everything))} lost, {len(verdict.conflicting)} conflicting, "
        f"dead letters {dict(verdict.dead)}"
    )
    assert not verdict.missing(everything)
    assert not verdict.conflicting
    assert set(verdict.contents) == stage.traffic.expected()
    for code in set(chaos.dead.values()) | set(verdict.dead):
        expected = list(chaos.dead.values()).count(code)
        assert verdict.dead[code] == expected or (delivery == "at_least_once" and verdict.dead[code] >= expected > 0)
    for worker in chaos.workers:
        if worker.pid:
            worker.wait_ready()
            assert worker.stop() == 0
