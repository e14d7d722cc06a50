"""Kafka behind the seam of `scorer.stream.broker`."""

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
LETTER_BYTES = 16 * 1024  # what a dead letter adds to its record: eight headers, of which one has 1,000 characters

log = get_logger(__name__)

__all__ = ["KafkaSink", "KafkaSource", "check_settings", "connect"]


def check_settings(kafka: KafkaSettings, *, insecure_dev: bool = False) -> None:
    """Refuse settings that no connection could be made with; asks no broker.

    Raises:
        SettingsError: settings contradict each other, or bytes would travel in the clear.
        BrokerRefused: a certificate cannot be read.
    """
    KafkaClientFactory(kafka, insecure_dev=insecure_dev)


def connect(
    kafka: KafkaSettings, stream: StreamSettings, *, insecure_dev: bool = False
) -> tuple[KafkaSource, KafkaSink]:
    """Return a source of the requests and a sink for results and dead letters, both connected.

    Raises:
        SettingsError: settings contradict each other, or bytes would travel in the clear.
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
    """Say before the first record which answers the topics will not take whole; the worker goes on without them."""
    limits = brokers.topic_limits({stream.requests, stream.results_topic, stream.dead_letters_topic})
    if missing := {stream.requests, stream.results_topic, stream.dead_letters_topic} - limits.keys():
        log.info("max.message.bytes is not known: this user may not describe topics' settings", topics=sorted(missing))
        return
    results, letters = limits[stream.results_topic], limits[stream.dead_letters_topic]
    if results < MAX_ANSWER_BYTES:
        log.warning(
            "a result may be larger than max.message.bytes of its topic and is then a dead letter; raise it",
            topic=stream.results_topic,
            max_message_bytes=results,
            needed=MAX_ANSWER_BYTES,
        )
    if letters < limits[stream.requests]:
        log.warning(
            "a dead letter may be larger than max.message.bytes of its topic and then goes without its value; raise it",
            topic=stream.dead_letters_topic,
            max_message_bytes=letters,
            needed=limits[stream.requests] + LETTER_BYTES,
        )


def open_dead_letters(kafka: KafkaSettings, stream: StreamSettings, *, insecure_dev: bool = False) -> KafkaLog:
    """Return the topic of dead letters, with the memory of what was replayed.

    Raises:
        SettingsError, BrokerUnavailable, BrokerRefused: see `connect`.
    """
    group = f"{stream.group_id}{REPLAY_SUFFIX}"
    return KafkaLog(KafkaClientFactory(kafka, insecure_dev=insecure_dev), stream.dead_letters_topic, group)


def open_sink(kafka: KafkaSettings, *, insecure_dev: bool = False) -> KafkaSink:
    """Return a sink for records alone: it is in no group, and so can store no positions.

    Raises:
        SettingsError, BrokerRefused: see `connect`; it connects when it delivers.
    """

    def refuse(_topic_partitions: Collection[TopicPartition]) -> NoReturn:
        message = "this sink is in no group and can store no positions"
        raise BrokerRefused(message)

    return KafkaSink(KafkaClientFactory(kafka, insecure_dev=insecure_dev), kafka, "unlensed", refuse)
