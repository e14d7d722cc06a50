"""The one door to kafka-python: how clients are made, what their errors mean, and how rebalances reach the poller.

That client calls back about rebalances on its I/O thread while `poll` is under way, and the callbacks must not block.
So they only note what happened and raise, which ends `poll` at the one moment when the group is stable, the revoked
partitions are not given away yet, heartbeats go on and commits still work.
"""

import logging
from collections.abc import Collection, Mapping
from importlib.util import find_spec
from typing import Any

from kafka import ConsumerRebalanceListener, KafkaConsumer, KafkaProducer, TopicPartition, errors
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.net.compat import KafkaNetClient
from kafka.serializer import Serializer
from kafka.structs import ConsumerGroupMetadata, OffsetAndMetadata

from scorer.settings import SettingsError
from scorer.stream.broker import BrokerRefused, BrokerUnavailable, Outgoing, Place, Position, Record
from scorer.stream.kafka_security import is_encrypted, security_options, split_addresses
from scorer.stream.settings import KafkaSettings
from scorer.transport import require_private_transport

__all__ = ["ConsumerGroupMetadata", "TopicPartition", "errors"]  # for the source and the sink beside this module

CONNECT_S = 15
REQUEST_S = 15
DELIVERY_S = 30

MIB = 2**20
# What the client fetches ahead is memory too: one response a broker, and one such part for each paused partition.
# A larger record still passes, alone.
FETCH_BYTES, PARTITION_FETCH_BYTES = 8 * MIB, 1 * MIB
# A frame may be as large as the broker's message.max.bytes allows. A record over our own limit becomes a dead letter;
# a frame over a limit here would be a connection that breaks for ever.
FRAME_BYTES = 2**31 - 1
# Just below the socket.request.max.bytes that brokers have by default: whatever came in can go out again.
PRODUCE_BYTES = 96 * MIB
BATCH_BYTES = 128 * 1024

# Waiting does not help with these; with everything else it may.
REFUSALS = (
    errors.AuthorizationError,
    errors.CorruptRecordError,
    errors.FencedInstanceIdError,
    errors.GroupMaxSizeReachedError,
    errors.InconsistentGroupProtocolError,
    errors.InvalidGroupIdError,
    errors.InvalidRecordError,
    errors.InvalidSessionTimeoutError,
    errors.InvalidTopicError,
    errors.InvalidTransactionTimeoutError,
    errors.KafkaConfigurationError,
    errors.MessageSizeTooLargeError,
    errors.OffsetMetadataTooLargeError,
    errors.ProducerFencedError,
    errors.RecordListTooLargeError,
    errors.SaslAuthenticationFailedError,
    errors.UnsupportedCodecError,
    errors.UnsupportedSaslMechanismError,
    errors.UnsupportedVersionError,
)


class Brokers:
    """Makes clients that agree on where the brokers are, how they are reached and how long they are waited for.

    Raises:
        SettingsError: settings contradict each other, or bytes would travel in the clear.
        BrokerRefused: a broker's certificate is not trusted, or it does not trust ours.
    """

    def __init__(self, kafka: KafkaSettings, *, insecure_dev: bool) -> None:
        if find_spec("crc32c") is None:
            message = "kafka-python checks records 15 times too slowly without crc32c: install unlensed[stream]"
            raise SettingsError(message)
        self.bootstrap = kafka.bootstrap
        self._kafka, self._insecure_dev = kafka, insecure_dev
        self._options = {
            "bootstrap_servers": [f"{host}:{port}" for host, port in split_addresses(kafka.bootstrap)],
            "client_id": "unlensed",
            "bootstrap_timeout_ms": CONNECT_S * 1000,
            "request_timeout_ms": REQUEST_S * 1000,
            "reconnect_backoff_max_ms": 1000,  # the default of 30 s would be added to every outage
            "metadata_max_age_ms": 30_000,
            "allow_auto_create_topics": False,
            **security_options(kafka, insecure_dev=insecure_dev),
        }

    def open_consumer(self, group: str | None, *, joins: bool) -> tuple[Any, "Connections"]:
        """Return a consumer and its connections; one that `joins` shares the topic with the group's other members.

        Raises:
            BrokerUnavailable: no broker answers within 15 s.
            BrokerRefused: they will not have us.
        """
        membership = {
            "group_instance_id": self._kafka.instance_id,
            "partition_assignment_strategy": [CooperativeStickyAssignor],
            "session_timeout_ms": int(self._kafka.session_timeout_s * 1000),
            "heartbeat_interval_ms": int(min(3.0, self._kafka.session_timeout_s / 3) * 1000),
            "max_poll_interval_ms": int(self._kafka.max_poll_interval_s * 1000),
        }
        return self._open(
            KafkaConsumer,
            group_id=group,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            isolation_level="read_committed",
            fetch_max_bytes=FETCH_BYTES,
            max_partition_fetch_bytes=PARTITION_FETCH_BYTES,
            receive_message_max_bytes=FRAME_BYTES,
            **(membership if joins else {}),
        )

    def open_producer(self, transactional_id: str | None) -> Any:  # noqa: ANN401 - the client ships no types
        """Return a producer that waits for all replicas, once each, uncompressed because JPEG does not shrink.

        Raises:
            BrokerUnavailable: no broker answers within 15 s.
            BrokerRefused: they will not have us.
        """
        transactions: dict[str, object] = {}
        if transactional_id:
            timeout_ms = int(self._kafka.transaction_timeout_s * 1000)
            transactions = {"transactional_id": transactional_id, "transaction_timeout_ms": timeout_ms}
        return self._open(
            KafkaProducer,
            acks="all",
            enable_idempotence=True,
            compression_type=None,
            value_serializer=_Verbatim(),
            max_request_size=PRODUCE_BYTES,
            batch_size=BATCH_BYTES,
            delivery_timeout_ms=DELIVERY_S * 1000,
            max_block_ms=DELIVERY_S * 1000,
            **transactions,
        )[0]

    def _open(self, kind: type, **options: object) -> tuple[Any, "Connections"]:
        clients: list[Any] = []

        def keep(**configuration: object) -> Any:  # noqa: ANN401 - the client ships no types
            clients.append(KafkaNetClient(**configuration))
            return clients[-1]

        try:
            made = kind(kafka_client=keep, **self._options, **options)
        except errors.KafkaError as error:
            for client in clients:
                client.close()  # or its thread would stay
            raise self.explain(error, "no connection") from error
        for broker in clients[0].cluster.brokers():  # the addresses that brokers tell may differ from the one we knew
            require_private_transport(broker.host, encrypted=is_encrypted(self._kafka), insecure_dev=self._insecure_dev)
        return made, Connections(clients[0])

    def explain(self, error: errors.KafkaError, what: str) -> BrokerRefused | BrokerUnavailable:
        """Return the error in the terms of the seam; the message starts with where and `what`."""
        inner = next((each for each in error.args if isinstance(each, errors.KafkaError)), error)
        kind = BrokerRefused if isinstance(error, REFUSALS) or isinstance(inner, REFUSALS) else BrokerUnavailable
        return kind(f"Kafka at {self.bootstrap}: {what}: {error}")


class Connections:
    """A client's connections."""

    def __init__(self, client: Any) -> None:  # noqa: ANN401 - the client ships no types
        self._client = client

    def any_open(self) -> bool:
        """Return whether at least one broker is connected."""
        return any(self._client.connected(broker.node_id) for broker in self._client.cluster.brokers())


class HandOver(Exception):
    """No failure: carries control from the client's I/O thread to the poller."""


class Rebalances(ConsumerRebalanceListener):  # type: ignore[misc]  # the client ships no types
    """Notes, on the client's I/O thread, what the poller will be told; `closing` ends that."""

    def __init__(self) -> None:
        self.noted: list[tuple[str, frozenset[Place]]] = []
        self.closing = False

    def on_partitions_assigned(self, assigned: Collection[TopicPartition]) -> None:
        """Note partitions that are ours from now on."""
        self._note("assigned", assigned)

    def on_partitions_revoked(self, revoked: Collection[TopicPartition]) -> None:
        """Note partitions that are ours until the next join."""
        self._note("revoked", revoked)

    def on_partitions_lost(self, lost: Collection[TopicPartition]) -> None:
        """Note partitions that somebody else may have already."""
        self._note("lost", lost)

    def _note(self, what: str, partitions: Collection[TopicPartition]) -> None:
        if not self.closing:
            self.noted.append((what, frozenset(Place(*each) for each in partitions)))
            raise HandOver


def _is_no_hand_over(record: logging.LogRecord) -> bool:
    return not (record.exc_info and isinstance(record.exc_info[1], HandOver))


logging.getLogger("kafka.coordinator.consumer").addFilter(_is_no_hand_over)  # or it logs as an error what is meant


_NOTHING = object()  # stands for an absent value, which the client refuses beside an absent key


class _Verbatim(Serializer):  # type: ignore[misc]  # the client ships no types
    def serialize(self, topic: str, headers: object, data: object) -> object:  # noqa: ARG002 - the client's signature
        return None if data is _NOTHING else data


def send_record(producer: Any, record: Outgoing) -> Any:  # noqa: ANN401 - the client ships no types
    """Hand a record to the client; return what can be waited for."""
    value = _NOTHING if record.value is None else record.value
    return producer.send(record.topic, value, key=record.key, headers=list(record.headers))


def to_record(fetched: Any) -> Record:  # noqa: ANN401 - the client ships no types
    """Return a record as the seam has it; a header without a value gets an empty one."""
    headers = tuple((name, value or b"") for name, value in fetched.headers)
    return Record(
        fetched.topic, fetched.partition, fetched.offset, fetched.timestamp, fetched.key, fetched.value, headers
    )


def to_offsets(positions: Mapping[Place, Position]) -> dict[TopicPartition, OffsetAndMetadata]:
    """Return positions as the client has them."""
    return {
        TopicPartition(*place): OffsetAndMetadata(position.offset, position.note, -1)
        for place, position in positions.items()
    }
