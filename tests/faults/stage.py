"""The servers of a fault test: a broker, an engine, workers, traffic and results, all real."""

import threading
from contextlib import ExitStack
from pathlib import Path

from deploy.local.kafka import KafkaServer
from deploy.local.triton import TritonServer
from deploy.local.worker import PROGRAM, Worker
from tests.faults.traffic import DEAD_LETTERS, REQUESTS, RESULTS, Results, Traffic

ROOT = Path(__file__).resolve().parents[2]
PARTITIONS = 4


class Stage:
    """A broker, a Triton server, workers, traffic and results."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._folder, self._stack = folder, stack
        (folder / "triton").mkdir()
        self.kafka = stack.enter_context(KafkaServer(folder / "kafka"))
        self.triton = stack.enter_context(TritonServer(ROOT / "model_repository", folder / "triton"))
        for topic in (REQUESTS, RESULTS, DEAD_LETTERS):
            self.kafka.create_topic(topic, PARTITIONS)
        self.traffic = Traffic(self.kafka.bootstrap)
        self.results = Results(self.kafka.bootstrap)
        stack.callback(self.results.close)

    def supervise_triton(self) -> None:
        """Restart Triton after each crash, as Kubernetes and Compose do.

        The server that runs here, 2.51, can crash when a client is killed during a request. The versions that the
        images require have that fixed (Triton's pull requests 7840 and 8078, 2025).
        """
        stop = threading.Event()
        thread = threading.Thread(target=self.triton.supervise, args=[stop], name="triton-supervisor")
        thread.start()
        self._stack.callback(thread.join)
        self._stack.callback(stop.set)

    def worker(self, name: str, program: str = PROGRAM, **settings: object) -> Worker:
        """Return a worker, not started; it is killed at the end of the test at the latest."""
        defaults: dict[str, object] = {
            "bundle": ROOT / "model_repository",
            "kafka__bootstrap": self.kafka.bootstrap,
            "kafka__instance_id": name,
            "kafka__session_timeout_s": 6,
            "kafka__transaction_timeout_s": 20,
            "triton__url": self.triton.url,
        }
        worker = Worker(self._folder / f"{name}.log", defaults | settings, program)
        self._stack.callback(worker.kill)
        return worker
