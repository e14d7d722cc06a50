"""Produces answers and waits for their acknowledgement: the only thread that uses the sink."""

import threading
from collections.abc import Callable, Mapping

from scorer.errors import BrokerUnavailable
from scorer.observe.logs import get_logger
from scorer.stream.broker import Outgoing, RecordSink, RecordsTooLarge, TopicPartition
from scorer.stream.ledger import InFlight, Ledger
from scorer.stream.metrics import Metrics
from scorer.stream.retry import Backoff

MAX_RECORDS, MAX_BYTES = 500, 32 * 2**20  # the client copies records that it sends

log = get_logger(__name__)


class ResultProducer:
    """Delivers the ledger's ready answers, and retries until they are acknowledged.

    Args:
        shrink: replaces an entry's answer by a smaller one, with the reason; returns whether there is one.
        once: deliver answers and offsets in one transaction instead of answers alone.
    """

    def __init__(  # noqa: PLR0913 - one parameter per collaborator
        self,
        ledger: Ledger,
        sink: RecordSink,
        metrics: Metrics,
        *,
        shrink: Callable[[InFlight, str], bool],
        on_outage: Callable[[str | None], None],
        on_crash: Callable[[BaseException], None],
        once: bool,
    ) -> None:
        self._ledger, self._sink, self._metrics, self._once = ledger, sink, metrics, once
        self._on_outage, self._on_crash, self._shrink = on_outage, on_crash, shrink
        self._stop = threading.Event()
        self.waiting = False
        self._thread = threading.Thread(target=self._run, name="deliver", daemon=True)
        self._thread.start()

    def close(self, timeout_s: float) -> None:
        """Stop after the current delivery."""
        self._stop.set()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        try:
            backoff = Backoff(self._stop)
            while not self._stop.is_set():
                try:
                    self._deliver()
                except BrokerUnavailable as error:
                    self.waiting = True
                    self._on_outage(str(error))
                    backoff.wait()
                else:
                    if self.waiting:
                        self._on_outage(None)
                    self.waiting = False
                    backoff.reset()
        except BaseException as error:  # noqa: BLE001 - after any error the worker must stop
            self._on_crash(error)

    def _deliver(self) -> None:
        ready = self._ledger.wait_ready(0.1, MAX_RECORDS, MAX_BYTES)
        if not ready:
            return
        with self._metrics.stage_seconds.labels(stage="deliver").time():
            if self._once:
                self._deliver_once(ready)
            else:
                self._deliver_without_transaction(ready)
        self._ledger.acknowledge(ready)

    def _deliver_without_transaction(self, ready: Mapping[TopicPartition, list[InFlight]]) -> None:
        entries = [entry for each in ready.values() for entry in each]
        while entries:
            try:
                self._sink.deliver(_answers(entries))
            except RecordsTooLarge as error:
                entries = self._shrink_all(entries, error)  # the others are acknowledged
            else:
                return

    def _deliver_once(self, ready: Mapping[TopicPartition, list[InFlight]]) -> None:
        entries = [entry for each in ready.values() for entry in each]
        offsets = {topic_partition: each[-1].record.offset + 1 for topic_partition, each in ready.items()}
        while True:
            try:
                self._sink.deliver_once(_answers(entries), offsets)
            except RecordsTooLarge as error:
                self._shrink_all(entries, error)
            else:
                break
        self._ledger.committed(offsets)

    def _shrink_all(self, entries: list[InFlight], error: RecordsTooLarge) -> list[InFlight]:
        """Replace the answers of refused records by smaller ones; return their entries.

        Raises:
            BrokerUnavailable: there is no smaller answer; a retry helps after the topic's limit is raised.
        """
        refused = {id(record) for record in error.records}
        concerned = [entry for entry in entries if id(entry.answer) in refused]
        for entry in concerned:
            record = entry.record
            log.warning(
                "an answer is too large for its topic",
                topic=entry.answer.topic if entry.answer else None,
                of=f"{record.topic}[{record.partition}]@{record.offset}",
                error=str(error),
            )
            if not self._shrink(entry, str(error)):
                message = f"the smallest dead letter is refused, raise max.message.bytes of its topic: {error}"
                raise BrokerUnavailable(message)
        return concerned


def _answers(entries: list[InFlight]) -> list[Outgoing]:
    return [entry.answer for entry in entries if entry.answer]
