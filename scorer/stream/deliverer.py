"""Produces answers and learns that they are safe: the one thread that owns the sink."""

import threading
from collections.abc import Callable

from scorer.stream.broker import BrokerUnavailable, RecordSink
from scorer.stream.ledger import Ledger
from scorer.stream.metrics import Metrics
from scorer.stream.patience import Backoff

MAX_RECORDS = 500


class Deliverer:
    """Delivers what the ledger has ready, again and again until it is acknowledged.

    Args:
        once: deliver answers and offsets in one transaction instead of answers alone.
    """

    def __init__(  # noqa: PLR0913 - one parameter per collaborator
        self,
        ledger: Ledger,
        sink: RecordSink,
        metrics: Metrics,
        *,
        on_outage: Callable[[str | None], None],
        on_crash: Callable[[BaseException], None],
        once: bool,
    ) -> None:
        self._ledger, self._sink, self._metrics, self._once = ledger, sink, metrics, once
        self._on_outage, self._on_crash = on_outage, on_crash
        self._stop = threading.Event()
        self.waiting = False
        self._thread = threading.Thread(target=self._run, name="deliver", daemon=True)
        self._thread.start()

    def close(self, timeout_s: float) -> None:
        """End after the delivery under way."""
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
        except BaseException as error:  # noqa: BLE001 - whatever it is, the worker must not go on
            self._on_crash(error)

    def _deliver(self) -> None:
        ready = self._ledger.wait_ready(0.1, MAX_RECORDS)
        if not ready:
            return
        answers = [ticket.answer for tickets in ready.values() for ticket in tickets if ticket.answer]
        with self._metrics.stage_seconds.labels(stage="deliver").time():
            if self._once:
                offsets = {place: tickets[-1].record.offset + 1 for place, tickets in ready.items()}
                self._sink.deliver_once(answers, offsets)
                self._ledger.committed(offsets)
            else:
                self._sink.deliver(answers)
        self._ledger.acknowledge(ready)
