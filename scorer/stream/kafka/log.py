"""Reads a Kafka topic from beginning to end without joining a group, and stores positions for one."""

import time
from collections.abc import Iterator, Mapping
from contextlib import suppress

from scorer.errors import BrokerRefused, BrokerUnavailable
from scorer.stream.broker import OffsetAndMetadata, Record, TopicPartition
from scorer.stream.kafka.client import KafkaClientFactory, KafkaTopicPartition, errors, to_offsets
from scorer.stream.kafka.records import to_record

REQUEST_S = 15
NO_RECORD_S = 30


class KafkaLog:
    """A topic, and the positions that a group stores for it. The group must have no members: they are not checked.

    Raises:
        BrokerUnavailable: no broker answers within 15 s.
        BrokerRefused: no such topic, or no right to it.
    """

    def __init__(self, brokers: KafkaClientFactory, topic: str, group: str) -> None:
        self._brokers = brokers
        self._consumer, _ = brokers.open_consumer(group, joins=False)
        partitions = self._consumer.partitions_for_topic(topic)
        if not partitions:
            self.close()
            message = f"Kafka at {brokers.bootstrap} has no topic {topic}, or this user may not see it"
            raise BrokerRefused(message)
        self._partitions = [KafkaTopicPartition(topic, each) for each in sorted(partitions)]
        self._consumer.assign(self._partitions)

    def positions(self) -> dict[TopicPartition, OffsetAndMetadata]:
        """Return the positions that the group has stored.

        Raises:
            BrokerUnavailable: no broker answers.
        """
        found = {}
        for partition in self._partitions:
            try:
                stored = self._consumer.committed(partition, metadata=True, timeout_ms=REQUEST_S * 1000)
            except errors.KafkaError as error:
                raise self._brokers.convert_error(error, "positions could not be read") from error
            if stored:
                found[TopicPartition(*partition)] = OffsetAndMetadata(stored.offset, stored.metadata or "")
        return found

    def read(self, start: Mapping[TopicPartition, int]) -> Iterator[Record]:
        """Return each partition's records in order, from `start` or the beginning to the current end.

        Raises:
            BrokerUnavailable: no record arrived for 30 s before the end.
        """
        try:
            ends = self._consumer.end_offsets(self._partitions, timeout_ms=REQUEST_S * 1000)
            begins = self._consumer.beginning_offsets(self._partitions, timeout_ms=REQUEST_S * 1000)
            for each in self._partitions:
                self._consumer.seek(each, max(begins[each], start.get(TopicPartition(*each), 0)))
            received_s = time.monotonic()
            while any(self._consumer.position(each, timeout_ms=0) < ends[each] for each in self._partitions):
                polled = self._consumer.poll(timeout_ms=500, max_records=50)
                for partition, records in polled.items():
                    yield from (to_record(each) for each in records if each.offset < ends[partition])
                now_s = time.monotonic()
                received_s = now_s if polled else received_s
                if now_s - received_s > NO_RECORD_S:
                    message = f"Kafka at {self._brokers.bootstrap} sent no record for {NO_RECORD_S} s"
                    raise BrokerUnavailable(message)
        except errors.KafkaError as error:
            raise self._brokers.convert_error(error, "reading failed") from error

    def remember(self, positions: Mapping[TopicPartition, OffsetAndMetadata]) -> None:
        """Store positions for the group.

        Raises:
            BrokerUnavailable: not stored now.
        """
        try:
            self._consumer.commit(to_offsets(positions), timeout_ms=REQUEST_S * 1000)
        except errors.KafkaError as error:
            raise self._brokers.convert_error(error, "positions were not stored") from error

    def close(self) -> None:
        """Close the connection."""
        with suppress(errors.KafkaError):
            self._consumer.close(autocommit=False, timeout_ms=2000)
