"""One `unlensed serve` process on a real broker, with its own topics."""

import os
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from deploy.local.kafka import KafkaServer
from deploy.local.worker import Worker
from scorer.settings import KafkaSettings, StreamSettings
from scorer.stream.broker import Outgoing
from tests.scorer.stream.kafka_peers import Site, wait_until

BUNDLE = Path(__file__).resolve().parent.parent / "model_repository"


class LiveStream:
    """A worker and its topics; answers are identified by the key of their request."""

    def __init__(self, site: Site, worker: Worker) -> None:
        self.site, self.worker = site, worker

    def ask(self, requests: Mapping[str, bytes | None]) -> dict[str, list[Any]]:
        """Send records, wait for an answer to each, stop the worker; return all answers by key."""
        topic = self.site.stream.requests
        self.site.produce(Outgoing(topic, key.encode(), value) for key, value in requests.items())
        wait_until(lambda: not self.worker.pid or self._read().keys() >= requests.keys(), "answers to all requests")
        assert self.worker.stop() == 0, self.worker.read_log()[-2000:]
        return self._read()

    def _read(self) -> dict[str, list[Any]]:
        answers: dict[str, list[Any]] = {}
        for topic in (self.site.stream.results_topic, self.site.stream.dead_letters_topic):
            for record in self.site.read(topic):
                answers.setdefault(record.key.decode(), []).append(record)
        return answers


@contextmanager
def open_stream(folder: Path, **settings: object) -> Iterator[LiveStream]:
    """Start a worker on a new broker, or on the one in `KAFKA_BOOTSTRAP_SERVERS`; stop both."""
    name = f"t{uuid.uuid4().hex[:8]}"
    topics = {"requests": f"{name}.requests", "results": f"{name}.results", "dead_letters": f"{name}.dead"}
    with ExitStack() as stack:
        bootstrap = os.environ.get("KAFKA_BOOTSTRAP_SERVERS")
        if not bootstrap:
            bootstrap = stack.enter_context(KafkaServer(folder / "kafka")).bootstrap
        site = Site(KafkaSettings(bootstrap=bootstrap), StreamSettings.model_validate({"group": name, **topics}))
        stack.callback(site.close)
        site.create_topics(partitions=2)
        topic_settings = {f"stream__{key}": value for key, value in {"group": name, **topics}.items()}
        worker_settings = {"bundle": BUNDLE, "kafka__bootstrap": bootstrap}
        worker = stack.enter_context(Worker(folder / "worker.log", worker_settings | topic_settings | settings))
        worker.wait_ready()
        yield LiveStream(site, worker)
