"""The door to kafka-python: how clients are made, what errors mean, and rebalances.

`kafka_records` beside it is for records, `kafka_security` for identity.

That client calls back about rebalances on its I/O thread while `poll` is under way, and the callbacks must not block.
So they only note what happened and raise, which ends `poll` at the one moment when the group is stable, the revoked
partitions are not given away yet, heartbeats go on and commits still work.
"""

import logging
from collections.abc import Collection, Mapping
from importlib.util import find_spec
from typing import Any

from kafka import ConsumerRebalanceListener, KafkaAdminClient, KafkaConsumer, KafkaProducer, errors
from kafka import TopicPartition as KafkaTopicPartition
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.net.compat import KafkaNetClient
from kafka.net.manager import KafkaConnectionManager
from kafka.net.selector import NetworkSelector
from kafka.partitioner import DefaultPartitioner
from kafka.protocol.consumer.offsets import OffsetSpec
from kafka.structs import ConsumerGroupMetadata, MemberState
from kafka.structs import OffsetAndMetadata as KafkaOffset

from scorer.errors import BrokerRefused, BrokerUnavailable, SettingsError
from scorer.settings import KafkaSettings
from scorer.stream.broker import OffsetAndMetadata, TopicPartition
from scorer.stream.kafka.records import TolerantRecords, Verbatim
from scorer.stream.kafka.security import is_encrypted, security_options, split_addresses
from scorer.transport import require_private_transport

# For the source and the sink beside this module.
__all__ = ["ConsumerGroupMetadata", "KafkaTopicPartition", "MemberState", "errors"]

LIMIT = "max.message.bytes"
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
HASHED_BYTES = 4096

# Waiting does not help with these; with everything else it may.
REFUSALS = (
    errors.AuthorizationError,
    errors.FencedInstanceIdError,
    errors.GroupMaxSizeReachedError,
    errors.InconsistentGroupProtocolError,
    errors.InvalidGroupIdError,
    errors.InvalidRecordError,
    errors.InvalidSessionTimeoutError,
    errors.InvalidTopicError,
    errors.InvalidTransactionTimeoutError,
    errors.KafkaConfigurationError,
    errors.OffsetMetadataTooLargeError,
    errors.ProducerFencedError,
    errors.SaslAuthenticationFailedError,
    errors.UnsupportedCodecError,
    errors.UnsupportedSaslMechanismError,
    errors.UnsupportedVersionError,
)


TOO_LARGE = (errors.MessageSizeTooLargeError, errors.RecordListTooLargeError)


class KafkaClientFactory:
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
            **security_options(kafka, insecure_dev=insecure_dev),
        }

    def open_consumer(
        self, group: str | None, *, joins: bool, isolation: str = "read_committed"
    ) -> tuple[Any, "Connections"]:
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
        consumer, connections = self._open(
            KafkaConsumer,
            allow_auto_create_topics=False,
            group_id=group,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            isolation_level=isolation,
            fetch_max_bytes=FETCH_BYTES,
            max_partition_fetch_bytes=PARTITION_FETCH_BYTES,
            receive_message_max_bytes=FRAME_BYTES,
            **(membership if joins else {}),
        )
        consumer._fetcher.PartitionRecords = TolerantRecords  # noqa: SLF001 - it has no option for this
        return consumer, connections

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
        producer, _ = self._open(
            KafkaProducer,
            allow_auto_create_topics=False,
            acks="all",
            enable_idempotence=True,
            compression_type=None,
            value_serializer=Verbatim(),
            partitioner=_Partitioner(),
            max_request_size=PRODUCE_BYTES,
            batch_size=BATCH_BYTES,
            retry_backoff_ms=20,  # a transaction waits this long for the end of the one before it
            delivery_timeout_ms=DELIVERY_S * 1000,
            max_block_ms=DELIVERY_S * 1000,
            **transactions,
        )
        # It would take a refused batch apart by its own reading of records, which `kafka_records` stands in for.
        producer._sender._can_split = lambda *_: False  # noqa: SLF001 - it has no option for this
        return producer

    def topic_limits(self, topics: Collection[str]) -> dict[str, int]:
        """Return max.message.bytes of topics, as far as this user may ask for it.

        Raises:
            BrokerUnavailable: no broker answers within 15 s.
            BrokerRefused: they will not have us.
        """
        admin, _ = self._open(KafkaAdminClient)
        wanted = [ConfigResource(ConfigResourceType.TOPIC, name, {LIMIT: None}) for name in topics]
        try:
            described = admin.describe_configs(wanted, config_filter="all").get("topic", {})
        except errors.KafkaError as error:
            raise self.explain(error, "the topics' settings could not be read") from error
        finally:
            admin.close()
        return {name: int(configs[LIMIT]["value"]) for name, configs in described.items() if LIMIT in configs}

    def _open(self, kind: type, **options: object) -> tuple[Any, "Connections"]:
        clients: list[Any] = []

        def keep(**configuration: object) -> Any:  # noqa: ANN401 - the client ships no types
            net = NetworkSelector(**configuration)
            clients.append(_WaitingClient(net, _Manager(net, **configuration), **configuration))
            return clients[-1]

        try:
            made = kind(kafka_client=keep, **self._options, **options)
            self._require_private(clients[0])
        except BaseException as error:
            for client in clients:
                client.close()  # or its thread would stay
            if isinstance(error, errors.KafkaError):
                raise self.explain(error, "no connection") from error
            raise
        return made, Connections(clients[0])

    def _require_private(self, client: Any) -> None:  # noqa: ANN401 - the client ships no types
        """Check the addresses that the brokers tell, which may differ from the one we knew."""
        for broker in client.cluster.brokers():
            require_private_transport(broker.host, encrypted=is_encrypted(self._kafka), insecure_dev=self._insecure_dev)

    def explain(self, error: errors.KafkaError, what: str) -> BrokerRefused | BrokerUnavailable:
        """Return the error in the terms of the seam; the message starts with where and `what`."""
        inner = next((each for each in error.args if isinstance(each, errors.KafkaError)), error)
        kind = BrokerRefused if isinstance(error, REFUSALS) or isinstance(inner, REFUSALS) else BrokerUnavailable
        return kind(f"Kafka at {self.bootstrap}: {what}: {error}")


class _Manager(KafkaConnectionManager):  # type: ignore[misc]  # the client ships no types
    def get_connection(self, node_id: object, *arguments: object, **options: object) -> Any:  # noqa: ANN401 - untyped
        """Remember that a broker refused our password, at which the client otherwise tries again for ever.

        It has a place for that, which it looks at before every try, and clears after each.
        """
        is_new = node_id not in self._conns
        connection = super().get_connection(node_id, *arguments, **options)
        if is_new:
            connection.init_future.add_errback(lambda error: self._remember(node_id, error))
        return connection

    async def _build_transport(self, *arguments: object, **options: object) -> Any:  # noqa: ANN401 - untyped
        """Hand on a broker's last words: those that arrive together with its hanging up are thrown away otherwise."""
        transport = await super()._build_transport(*arguments, **options)
        receive = transport._sock_recv  # noqa: SLF001 - see above

        def receive_words_first() -> tuple[bytes, errors.KafkaError | None]:
            words, error = receive()
            return words, (None if words else error)  # the end is still there when it is read again

        transport._sock_recv = receive_words_first  # noqa: SLF001
        return transport

    def _remember(self, node_id: object, error: BaseException) -> None:
        if isinstance(error, errors.SaslAuthenticationFailedError | errors.UnsupportedSaslMechanismError):
            self._net.call_soon(lambda: self._auth_failures.update({node_id: error}))  # after it cleared that place


class _WaitingClient(KafkaNetClient):  # type: ignore[misc]  # the client ships no types
    def await_ready(self, node_id: object, timeout_ms: float = 30_000) -> bool:
        """Say that a node is not ready instead of raising, at which the producer forgets what it was about to send.

        A transaction would then wait for ever for a request that nobody sends.
        """
        try:
            return bool(super().await_ready(node_id, timeout_ms=timeout_ms))
        except errors.KafkaError:
            self.poll(timeout_ms=100)  # the producer asks again at once
            return False


class _Joining:
    """A join under way, which the client will wait for again even if it is done by then."""

    is_done = False

    def __init__(self, task: Any) -> None:  # noqa: ANN401 - the client ships no types
        self.add_callback, self.add_errback = task.add_callback, task.add_errback


def keep_join(consumer: Any) -> None:  # noqa: ANN401 - the client ships no types
    """Keep a join that `poll` did not see the end of; to be called after every `poll`.

    A join that ends between two polls is forgotten by the client, which then joins anew and so sets the whole group
    to joining again. Members with short polls never come to rest. And a leader that joins because the topic's metadata
    changed forgets why as soon as it has dealt out the partitions, or when an outage cuts the join off: it would never
    look for the end of its join, send no heartbeat, and go on with partitions that the group has long given to others.
    """
    coordinator = consumer._coordinator  # noqa: SLF001 - there is no other way to it
    if coordinator._join_task is not None:  # noqa: SLF001
        coordinator._join_task = _Joining(coordinator._join_task)  # noqa: SLF001
    if coordinator.rejoining:  # from before a join's first attempt until one has succeeded; no heartbeats meanwhile
        coordinator.rejoin_needed = True


def forget_drained(consumer: Any) -> None:  # noqa: ANN401 - the client ships no types
    """Let the client take up what it has fetched of a resumed partition; to be called before every `poll`.

    It looks for that only where no other partition is in line, and keeps one there that has nothing left. What it has
    fetched is not fetched again, so that the resumed partition would wait until another one has new records.
    """
    fetcher = consumer._fetcher  # noqa: SLF001 - there is no other way to it
    if not fetcher._next_partition_records:  # noqa: SLF001
        fetcher._next_partition_records = None  # noqa: SLF001


def note_resets(consumer: Any) -> dict[TopicPartition, int]:  # noqa: ANN401 - the client ships no types
    """Return where positions will appear that the broker has no records for any more, before the client leaves them."""
    left: dict[TopicPartition, int] = {}
    subscription = consumer._subscription  # noqa: SLF001 - it tells nobody
    request = subscription.request_offset_reset

    def note(partition: KafkaTopicPartition, *strategy: object) -> None:
        position = subscription.assignment[partition].position
        if position is not None:
            left.setdefault(TopicPartition(*partition), position.offset)
        request(partition, *strategy)

    subscription.request_offset_reset = note
    return left


def is_replaced(consumer: Any) -> bool:  # noqa: ANN401 - the client ships no types
    """Return whether another worker has taken our instance id, at which the client only stops its heartbeats."""
    coordinator = consumer._coordinator  # noqa: SLF001 - there is no other way to it
    return (
        coordinator.stable() and not coordinator.rejoin_needed and not coordinator._heartbeat_enabled  # noqa: SLF001
    )


def give_up_membership(consumer: Any) -> None:  # noqa: ANN401 - the client ships no types
    """Let `close` leave the group although the membership is static, at which the client only falls silent."""
    consumer._coordinator.is_dynamic_member = lambda: True  # noqa: SLF001 - it has no option for this


class LogEnds:
    """Where partitions end for a consumer: as far as it may read, by its isolation. Nobody waits for an answer."""

    def __init__(self, consumer: Any) -> None:  # noqa: ANN401 - the client ships no types
        self._fetcher, self._asked = consumer._fetcher, None  # noqa: SLF001 - it asks in no other way without waiting
        self.known: dict[TopicPartition, int] = {}

    def ask(self, partitions: Collection[KafkaTopicPartition]) -> None:
        """Take in what was answered, and ask again unless that is still to come."""
        if self._asked is not None:
            if not self._asked.is_done:
                return
            if self._asked.succeeded():
                found, _ = self._asked.value
                self.known = {TopicPartition(*partition): end.offset for partition, end in found.items()}
        if partitions:
            wanted = dict.fromkeys(partitions, OffsetSpec.LATEST)
            self._asked = self._fetcher._manager.call_soon(self._fetcher._send_list_offsets_requests, wanted)  # noqa: SLF001


class Connections:
    """A client's connections."""

    def __init__(self, client: Any) -> None:  # noqa: ANN401 - the client ships no types
        self._client = client

    def any_open(self) -> bool:
        """Return whether at least one broker is connected."""
        return any(self._client.connected(broker.node_id) for broker in self._client.cluster.brokers())


class RebalanceSignal(Exception):
    """No failure: carries control from the client's I/O thread to the poller."""


class Rebalances(ConsumerRebalanceListener):  # type: ignore[misc]  # the client ships no types
    """Notes, on the client's I/O thread, what the poller will be told; `closing` ends that."""

    def __init__(self) -> None:
        self.noted: list[tuple[str, frozenset[TopicPartition]]] = []
        self.closing = False

    def on_partitions_assigned(self, assigned: Collection[KafkaTopicPartition]) -> None:
        """Note partitions that are ours from now on."""
        self._note("assigned", assigned)

    def on_partitions_revoked(self, revoked: Collection[KafkaTopicPartition]) -> None:
        """Note partitions that are ours until the next join."""
        self._note("revoked", revoked)

    def on_partitions_lost(self, lost: Collection[KafkaTopicPartition]) -> None:
        """Note partitions that somebody else may have already."""
        self._note("lost", lost)

    def _note(self, what: str, partitions: Collection[KafkaTopicPartition]) -> None:
        if not self.closing:
            self.noted.append((what, frozenset(TopicPartition(*each) for each in partitions)))
            raise RebalanceSignal


def _is_no_rebalance_signal(record: logging.LogRecord) -> bool:
    return not (record.exc_info and isinstance(record.exc_info[1], RebalanceSignal))


logging.getLogger("kafka.coordinator.consumer").addFilter(
    _is_no_rebalance_signal
)  # or it logs as an error what is meant


class _Partitioner(DefaultPartitioner):  # type: ignore[misc]  # the client ships no types
    def partition(self, topic: str, key: object, serialized_key: bytes | None, *rest: object) -> int:
        """Choose as other clients do, by the first 4 KiB of a key: the hash is Python, and a key may have 40 MiB."""
        return int(super().partition(topic, key, serialized_key and serialized_key[:HASHED_BYTES], *rest))


def to_offsets(positions: Mapping[TopicPartition, OffsetAndMetadata]) -> dict[KafkaTopicPartition, KafkaOffset]:
    """Return positions and their notes as the client has them."""
    return {
        KafkaTopicPartition(*topic_partition): KafkaOffset(position.offset, position.note, -1)
        for topic_partition, position in positions.items()
    }
