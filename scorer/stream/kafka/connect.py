"""Opens Kafka sources, sinks and logs, which implement `scorer.stream.broker`."""

from collections.abc import Collection
from typing import NoReturn

from scorer.errors import BrokerRefused
from scorer.observe.logs import get_logger
from scorer.settings import KafkaSettings, StreamSettings
from scorer.stream.broker import TopicPartition
from scorer.stream.codec import MAX_ANSWER_BYTES
from scorer.stream.kafka.client import KafkaClientFactory
from scorer.stream.kafka.log import KafkaLog
from scorer.stream.kafka.sink import KafkaSink
from scorer.stream.kafka.source import KafkaSource

REPLAY_SUFFIX = ".replayed"
# What a dead letter adds to its record: eight headers, one with up to 1,000 characters.
DEAD_LETTER_OVERHEAD_BYTES = 16 * 1024

log = get_logger(__name__)

__all__ = ["KafkaSink", "KafkaSource", "check_settings", "connect"]


def check_settings(kafka: KafkaSettings, *, insecure_dev: bool = False) -> None:
    """Refuse settings that cannot work; does not connect, except to check TLS certificates.

    Raises:
        SettingsError: settings contradict each other, or the connection would not be encrypted.
        BrokerRefused: a certificate cannot be read.
    """
    KafkaClientFactory(kafka, insecure_dev=insecure_dev)


def connect(
    kafka: KafkaSettings, stream: StreamSettings, *, insecure_dev: bool = False
) -> tuple[KafkaSource, KafkaSink]:
    """Return a source of the requests and a sink for results and dead letters, both connected.

    Raises:
        SettingsError: settings contradict each other, or the connection would not be encrypted.
        BrokerUnavailable: no broker answers within 15 s.
        BrokerRefused: wrong password, untrusted certificate, no such topic.
    """
    brokers = KafkaClientFactory(kafka, insecure_dev=insecure_dev)
    source = KafkaSource(brokers, stream.group_id, stream.requests, stays_member=kafka.stays_member)
    try:
        source.require_topics({stream.requests, stream.results_topic, stream.dead_letters_topic})
        _warn_of_limits(brokers, stream)
        sink = KafkaSink(brokers, kafka, stream.group_id, source.membership)
        if stream.delivery == "exactly_once":
            sink.fence_predecessor()
    except BaseException:
        source.close(timeout_s=1)
        raise
    return source, sink


def _warn_of_limits(brokers: KafkaClientFactory, stream: StreamSettings) -> None:
    """Warn before the first record about topics whose limits are too small for some answers."""
    limits = brokers.topic_limits({stream.requests, stream.results_topic, stream.dead_letters_topic})
    if missing := {stream.requests, stream.results_topic, stream.dead_letters_topic} - limits.keys():
        log.info("max.message.bytes is not known: this user may not describe topics' settings", topics=sorted(missing))
        return
    results, dead_letters_limit = limits[stream.results_topic], limits[stream.dead_letters_topic]
    if results < MAX_ANSWER_BYTES:
        log.warning(
            "a result may be larger than max.message.bytes of its topic and then becomes a dead letter; raise it",
            topic=stream.results_topic,
            max_message_bytes=results,
            needed=MAX_ANSWER_BYTES,
        )
    if dead_letters_limit < limits[stream.requests]:
        log.warning(
            "a dead letter may be larger than max.message.bytes of its topic and then loses its value; raise it",
            topic=stream.dead_letters_topic,
            max_message_bytes=dead_letters_limit,
            needed=limits[stream.requests] + DEAD_LETTER_OVERHEAD_BYTES,
        )


def open_dead_letters(kafka: KafkaSettings, stream: StreamSettings, *, insecure_dev: bool = False) -> KafkaLog:
    """Return the topic of dead letters, with the stored positions of replays.

    Raises:
        SettingsError, BrokerUnavailable, BrokerRefused: see `connect`.
    """
    group = f"{stream.group_id}{REPLAY_SUFFIX}"
    return KafkaLog(KafkaClientFactory(kafka, insecure_dev=insecure_dev), stream.dead_letters_topic, group)


def open_sink(kafka: KafkaSettings, *, insecure_dev: bool = False) -> KafkaSink:
    """Return a sink without a group, which cannot store positions.

    Raises:
        SettingsError, BrokerRefused: see `connect`; it connects when it delivers.
    """

    def refuse(_topic_partitions: Collection[TopicPartition]) -> NoReturn:
        message = "this sink has no group and cannot store positions"
        raise BrokerRefused(message)

    return KafkaSink(KafkaClientFactory(kafka, insecure_dev=insecure_dev), kafka, "unlensed", refuse)
