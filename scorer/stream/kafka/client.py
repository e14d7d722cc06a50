"""Adapts kafka-python: creates clients, converts errors, handles rebalances.

`records.py` converts records, `security.py` reads credentials and certificates.

The client calls rebalance listeners on its I/O thread within `poll`, and they must not block. So our listener only
notes the event and raises, which ends `poll` while the group is stable: revoked partitions are not yet reassigned,
heartbeats continue and commits still work.

kafka-python is pinned below 3.1, because some behaviour can be changed only through private attributes of 3.0.12. Each
such change names the test on a real broker that fails without it, and the upstream issue where one is known.
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
from scorer.stream.kafka.records import RawSerializer, TolerantRecords
from scorer.stream.kafka.security import is_encrypted, security_options, split_addresses
from scorer.transport import require_private_transport

# Re-exported for `source.py` and `sink.py`.
__all__ = ["ConsumerGroupMetadata", "KafkaTopicPartition", "MemberState", "errors"]

LIMIT = "max.message.bytes"
CONNECT_S = 15
REQUEST_S = 15
DELIVERY_S = 30

MIB = 2**20
# Fetched records use memory too: one response per broker, and one part for each paused partition. A larger record is
# still read, alone.
FETCH_BYTES, PARTITION_FETCH_BYTES = 8 * MIB, 1 * MIB
# A frame may be as large as the broker's message.max.bytes. A record over our own limit becomes a dead letter; a frame
# over this limit would break the connection again and again.
FRAME_BYTES = 2**31 - 1
# Just below the default socket.request.max.bytes of brokers: every record that was read can be written.
PRODUCE_BYTES = 96 * MIB
BATCH_BYTES = 128 * 1024
HASHED_BYTES = 4096

# A retry does not help after these errors; after all others it may.
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
    """Creates clients with the same addresses, security and timeouts.

    Raises:
        SettingsError: settings contradict each other, or the connection would not be encrypted.
        BrokerRefused: a broker's certificate is not trusted, or the broker does not trust ours.
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
            "reconnect_backoff_max_ms": 1000,  # the default of 30 s would extend every outage
            "metadata_max_age_ms": 30_000,
            **security_options(kafka, insecure_dev=insecure_dev),
        }

    def open_consumer(
        self, group: str | None, *, joins: bool, isolation: str = "read_committed"
    ) -> tuple[Any, "Connections"]:
        """Return a consumer and its connections; with `joins` it is a member of the group.

        Raises:
            BrokerUnavailable: no broker answers within 15 s.
            BrokerRefused: the broker refuses the connection.
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
        # Needed by test_header_names_of_any_bytes_are_read in test_source.py.
        consumer._fetcher.PartitionRecords = TolerantRecords  # noqa: SLF001 - no option
        return consumer, connections

    def open_producer(self, transactional_id: str | None) -> Any:  # noqa: ANN401 - the client ships no types
        """Return an idempotent producer that waits for all replicas, uncompressed because JPEG does not shrink.

        Raises:
            BrokerUnavailable: no broker answers within 15 s.
            BrokerRefused: the broker refuses the connection.
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
            value_serializer=RawSerializer(),
            partitioner=_Partitioner(),
            max_request_size=PRODUCE_BYTES,
            batch_size=BATCH_BYTES,
            retry_backoff_ms=20,  # a transaction waits this long for the previous one
            delivery_timeout_ms=DELIVERY_S * 1000,
            max_block_ms=DELIVERY_S * 1000,
            **transactions,
        )
        # The client would split a refused batch with its own parser, which fails at header names that are not UTF-8.
        # Needed by test_refused_records_with_header_names_of_any_bytes_are_named in test_sink.py.
        producer._sender._can_split = lambda *_: False  # noqa: SLF001 - no option
        return producer

    def topic_limits(self, topics: Collection[str]) -> dict[str, int]:
        """Return max.message.bytes of topics, where this user may read it.

        Raises:
            BrokerUnavailable: no broker answers within 15 s.
            BrokerRefused: the broker refuses the connection.
        """
        admin, _ = self._open(KafkaAdminClient)
        wanted = [ConfigResource(ConfigResourceType.TOPIC, name, {LIMIT: None}) for name in topics]
        try:
            described = admin.describe_configs(wanted, config_filter="all").get("topic", {})
        except errors.KafkaError as error:
            raise self.convert_error(error, "the topics' settings could not be read") from error
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
                client.close()  # or its thread would keep running
            if isinstance(error, errors.KafkaError):
                raise self.convert_error(error, "no connection") from error
            raise
        return made, Connections(clients[0])

    def _require_private(self, client: Any) -> None:  # noqa: ANN401 - the client ships no types
        """Check the addresses that the brokers advertise, which may differ from the bootstrap address."""
        for broker in client.cluster.brokers():
            require_private_transport(broker.host, encrypted=is_encrypted(self._kafka), insecure_dev=self._insecure_dev)

    def convert_error(self, error: errors.KafkaError, what: str) -> BrokerRefused | BrokerUnavailable:
        """Return the error of `scorer.errors`; its message starts with the address and `what`."""
        inner = next((each for each in error.args if isinstance(each, errors.KafkaError)), error)
        kind = BrokerRefused if isinstance(error, REFUSALS) or isinstance(inner, REFUSALS) else BrokerUnavailable
        return kind(f"Kafka at {self.bootstrap}: {what}: {error}")


class _Manager(KafkaConnectionManager):  # type: ignore[misc]  # the client ships no types
    def get_connection(self, node_id: object, *arguments: object, **options: object) -> Any:  # noqa: ANN401 - untyped
        """Store refused credentials, after which the client otherwise retries forever.

        https://github.com/dpkp/kafka-python/pull/2994 stores them only where `initialize` raises, which it does not.
        Needed by test_a_wrong_password_is_refused_at_once in test_security.py.
        """
        is_new = node_id not in self._conns
        connection = super().get_connection(node_id, *arguments, **options)
        if is_new:
            connection.init_future.add_errback(lambda error: self._remember(node_id, error))
        return connection

    async def _build_transport(self, *arguments: object, **options: object) -> Any:  # noqa: ANN401 - untyped
        """Return a transport that passes on what it read together with the end of the connection.

        The client drops such bytes: a refusal that is read together with the disconnection is lost.
        Needed by test_a_refusal_read_together_with_the_disconnection_is_kept in test_security.py.
        """
        transport = await super()._build_transport(*arguments, **options)
        receive = transport._sock_recv  # noqa: SLF001 - no option

        def receive_data_first() -> tuple[bytes, BaseException | None]:
            data, error = receive()
            return data, None if data else error  # the next read reports the end again

        transport._sock_recv = receive_data_first  # noqa: SLF001
        return transport

    def _remember(self, node_id: object, error: BaseException) -> None:
        if isinstance(error, errors.SaslAuthenticationFailedError | errors.UnsupportedSaslMechanismError):
            self._net.call_soon(lambda: self._auth_failures.update({node_id: error}))  # after the client has cleared it


class _WaitingClient(KafkaNetClient):  # type: ignore[misc]  # the client ships no types
    def await_ready(self, node_id: object, timeout_ms: float = 30_000) -> bool:
        """Return False for a node that is not ready, where the client raises.

        After the exception the producer forgets the request that it was about to send, and a transaction waits forever.
        `Sender._maybe_send_pending_request` retries only where its target is None. Which request an outage hits
        depends on timing: test_writing_continues_and_loses_nothing in test_outage.py can pass without this.
        """
        try:
            return bool(super().await_ready(node_id, timeout_ms=timeout_ms))
        except errors.KafkaError:
            self.poll(timeout_ms=100)  # the producer retries at once
            return False


class LogEndOffsets:
    """The end offsets of partitions for a consumer, by its isolation level, requested without waiting.

    Needed by test_lag_is_known_while_partitions_are_paused, test_an_open_transaction_is_seen in test_ends.py.
    """

    def __init__(self, consumer: Any) -> None:  # noqa: ANN401 - the client ships no types
        self._fetcher, self._request = consumer._fetcher, None  # noqa: SLF001 - the public call waits
        self.known: dict[TopicPartition, int] = {}

    def refresh(self, partitions: Collection[KafkaTopicPartition]) -> None:
        """Read the last answer, and send a new request unless one is pending."""
        if self._request is not None:
            if not self._request.is_done:
                return
            if self._request.succeeded():
                found, _ = self._request.value
                self.known = {TopicPartition(*partition): end.offset for partition, end in found.items()}
        if partitions:
            wanted = dict.fromkeys(partitions, OffsetSpec.LATEST)
            self._request = self._fetcher._manager.call_soon(self._fetcher._send_list_offsets_requests, wanted)  # noqa: SLF001


class Connections:
    """A client's connections."""

    def __init__(self, client: Any) -> None:  # noqa: ANN401 - the client ships no types
        self._client = client

    def any_open(self) -> bool:
        """Return whether at least one broker is connected."""
        return any(self._client.connected(broker.node_id) for broker in self._client.cluster.brokers())


class RebalanceSignal(Exception):
    """Not an error: ends `poll` from the client's I/O thread."""


class Rebalances(ConsumerRebalanceListener):  # type: ignore[misc]  # the client ships no types
    """Notes rebalances on the client's I/O thread for the poller, until `closing` is set."""

    def __init__(self) -> None:
        self.noted: list[tuple[str, frozenset[TopicPartition]]] = []
        self.closing = False

    def on_partitions_assigned(self, assigned: Collection[KafkaTopicPartition]) -> None:
        """Note partitions that were assigned."""
        self._note("assigned", assigned)

    def on_partitions_revoked(self, revoked: Collection[KafkaTopicPartition]) -> None:
        """Note partitions that are owned until the next join."""
        self._note("revoked", revoked)

    def on_partitions_lost(self, lost: Collection[KafkaTopicPartition]) -> None:
        """Note partitions that another member may already own."""
        self._note("lost", lost)

    def _note(self, what: str, partitions: Collection[KafkaTopicPartition]) -> None:
        if not self.closing:
            self.noted.append((what, frozenset(TopicPartition(*each) for each in partitions)))
            raise RebalanceSignal


def _is_no_rebalance_signal(record: logging.LogRecord) -> bool:
    return not (record.exc_info and isinstance(record.exc_info[1], RebalanceSignal))


logging.getLogger("kafka.coordinator.consumer").addFilter(
    _is_no_rebalance_signal
)  # the client logs the signal as an error


class _Partitioner(DefaultPartitioner):  # type: ignore[misc]  # the client ships no types
    def partition(self, topic: str, key: object, serialized_key: bytes | None, *rest: object) -> int:
        """Choose as the Java client does for the first 4 KiB of a key; the hash of a longer one takes too long."""
        return int(super().partition(topic, key, serialized_key and serialized_key[:HASHED_BYTES], *rest))


def to_offsets(positions: Mapping[TopicPartition, OffsetAndMetadata]) -> dict[KafkaTopicPartition, KafkaOffset]:
    """Return positions and notes in the client's types."""
    return {
        KafkaTopicPartition(*topic_partition): KafkaOffset(position.offset, position.note, -1)
        for topic_partition, position in positions.items()
    }
