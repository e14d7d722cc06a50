"""Writes results and dead letters to Kafka. Used by the result producer's thread only.

A kafka-python producer whose records expired, or that was fenced, may not work again. So it is discarded after every
failure, and the next delivery creates a new one.
"""

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any
from uuid import uuid4

from scorer.errors import BrokerUnavailable
from scorer.settings import KafkaSettings
from scorer.stream.broker import OffsetAndMetadata, Outgoing, RecordsTooLarge, TopicPartition
from scorer.stream.kafka.client import (
    DELIVERY_S,
    REQUEST_S,
    TOO_LARGE,
    ConsumerGroupMetadata,
    KafkaClientFactory,
    errors,
    to_offsets,
)
from scorer.stream.kafka.records import send_record
from scorer.stream.watchdog import Watchdog

WATCHDOG_MARGIN_S = 15


class KafkaSink:
    """Writes records, on request in transactions. See `RecordSink`.

    The transactional id is the group and the instance id, so that a restarted worker aborts the open transaction of its
    predecessor at once. Without an instance id it is random: then the outdated membership of the group prevents commits
    of the predecessor (KIP-447), and its open transaction ends after the transaction timeout.
    """

    def __init__(
        self,
        brokers: KafkaClientFactory,
        kafka: KafkaSettings,
        group: str,
        membership: Callable[[Collection[TopicPartition]], ConsumerGroupMetadata],
    ) -> None:
        self._brokers, self._membership = brokers, membership
        self._has_successors = kafka.instance_id is not None
        self._transactional_id = f"{group}-{kafka.instance_id or uuid4()}"
        self._producers: dict[str | None, Any] = {}
        self._watchdog = Watchdog(kafka.transaction_timeout_s + WATCHDOG_MARGIN_S, "transaction")

    def fence_predecessor(self) -> None:
        """Create the transactional producer now, which aborts an open transaction of the same id."""
        with self._watchdog:
            self._producer(self._transactional_id)

    def deliver(self, records: Sequence[Outgoing]) -> None:
        """See `RecordSink`; takes at most about a minute."""
        with self._failures(None):
            refused = self._send(self._producer(None), records)
            if len(refused) > 1:  # some only shared a batch, or the producer had stopped
                refused = [record for record in refused if self._send_alone(record)]
            if refused:
                raise RecordsTooLarge(refused, _describe(refused))

    def deliver_once(self, records: Sequence[Outgoing], offsets: Mapping[TopicPartition, int]) -> None:
        """See `RecordSink`; exits the process when the broker neither commits nor refuses in time."""
        membership = self._membership(offsets.keys())
        with self._watchdog, self._failures(self._transactional_id):
            producer = self._begin_transaction()
            if self._send(producer, records):  # which of them is not known: a batch is refused as a whole
                self._abort_transaction()
                producer = self._begin_transaction()
                self._send_one_by_one(producer, records)
            producer.send_offsets_to_transaction(
                to_offsets({topic_partition: OffsetAndMetadata(offset) for topic_partition, offset in offsets.items()}),
                membership,
            )
            self._commit(producer)

    def close(self, timeout_s: float) -> None:
        """See `RecordSink`."""
        for transactional_id in list(self._producers):
            self._discard(transactional_id, timeout_s)
        self._watchdog.close()

    def _commit(self, producer: Any) -> None:  # noqa: ANN401 - the client ships no types
        try:
            producer.commit_transaction()
        except errors.BrokerResponseError:
            raise  # the coordinator did not commit
        except errors.KafkaError as error:
            # Unknown whether it is committed: a reported failure would write everything twice if it is.
            self._watchdog.abort_process(str(error))

    @contextmanager
    def _failures(self, transactional_id: str | None) -> Iterator[None]:
        """Convert the client's errors, and abort the open transaction."""
        try:
            yield
        except RecordsTooLarge:
            if transactional_id:
                self._abort_transaction()
            else:
                self._discard(None, timeout_s=2)  # after a refusal the producer sends nothing more
            raise
        except errors.KafkaError as error:
            answered = isinstance(error, errors.BrokerResponseError | errors.CommitFailedError)
            if transactional_id and answered and not isinstance(error, errors.ProducerFencedError):
                with suppress(errors.KafkaError):
                    self._producers[transactional_id].abort_transaction()
            self._discard(transactional_id, timeout_s=2)
            converted = self._brokers.convert_error(error, "nothing was acknowledged")
            # Nobody else has a random id: the coordinator itself aborted a transaction that took too long.
            timed_out = isinstance(error, errors.ProducerFencedError) and not self._has_successors
            # The offsets are of a membership that this worker itself has replaced. If another worker has the instance
            # id, the consumer finds out.
            outdated = isinstance(error, errors.FencedInstanceIdError)
            if timed_out or outdated:
                converted = BrokerUnavailable(str(converted))
            raise converted from error

    def _producer(self, transactional_id: str | None) -> Any:  # noqa: ANN401 - the client ships no types
        if producer := self._producers.get(transactional_id):
            return producer
        producer = self._brokers.open_producer(transactional_id)
        self._producers[transactional_id] = producer
        if transactional_id:
            producer.init_transactions()
        return producer

    def _send_alone(self, record: Outgoing) -> bool:
        """Send a record with no other, and return whether it was refused for its size."""
        self._discard(None, timeout_s=2)
        return bool(self._send(self._producer(None), [record]))

    def _begin_transaction(self) -> Any:  # noqa: ANN401 - the client ships no types
        producer = self._producer(self._transactional_id)
        producer.begin_transaction()
        return producer

    def _abort_transaction(self) -> None:
        """Abort the open transaction; a producer with a refused record sends nothing more, so it is discarded."""
        with suppress(errors.KafkaError):
            self._producers[self._transactional_id].abort_transaction()
        self._discard(self._transactional_id, timeout_s=2)

    def _send_one_by_one(self, producer: Any, records: Sequence[Outgoing]) -> None:  # noqa: ANN401 - untyped
        """Send each record in a batch of its own.

        Raises:
            RecordsTooLarge: one is refused. The others of its topic that are at least as large are named with it.
        """
        for record in records:
            if self._send(producer, [record]):
                refused = [each for each in records if each.topic == record.topic and each.size >= record.size]
                raise RecordsTooLarge(refused, _describe(refused))

    def _send(self, producer: Any, records: Sequence[Outgoing]) -> list[Outgoing]:  # noqa: ANN401 - untyped
        """Send all records and wait for all, so that a discarded producer contains none.

        Returns:
            The records refused for their size, or because another one in their batch was; the others are acknowledged.

        Raises:
            KafkaError: not all are acknowledged.
        """
        sent: list[tuple[Outgoing, Any]] = []
        refused: list[Outgoing] = []
        failure = None
        try:
            for record in records:
                try:
                    sent.append((record, send_record(producer, record)))
                except TOO_LARGE:
                    refused.append(record)
        except errors.KafkaError as error:
            failure = error  # the records sent before it are still awaited
        until = time.monotonic() + DELIVERY_S + REQUEST_S
        for record, future in sent:
            try:
                future.get(timeout=max(0.0, until - time.monotonic()))
            except TOO_LARGE:
                refused.append(record)
            except errors.KafkaError as error:
                failure = failure or error
        if failure:
            raise failure
        return refused

    def _discard(self, transactional_id: str | None, timeout_s: float) -> None:
        if producer := self._producers.pop(transactional_id, None):
            producer._sender.force_close()  # noqa: SLF001 - `close` first flushes, which raises and leaves its thread running
            with suppress(errors.KafkaError):
                producer.close(timeout=timeout_s)


def _describe(refused: Sequence[Outgoing]) -> str:
    largest = max(record.size for record in refused)
    return f"{len(refused)} of up to {largest} bytes are larger than max.message.bytes of their topic"
