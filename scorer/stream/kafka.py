"""Kafka behind the seam of `scorer.stream.broker`."""

from scorer.stream.kafka_client import Brokers
from scorer.stream.kafka_sink import KafkaSink
from scorer.stream.kafka_source import KafkaSource
from scorer.stream.settings import KafkaSettings, StreamSettings

__all__ = ["KafkaSink", "KafkaSource", "connect"]


def connect(
    kafka: KafkaSettings, stream: StreamSettings, *, insecure_dev: bool = False
) -> tuple[KafkaSource, KafkaSink]:
    """Return a source of the requests and a sink for results and dead letters, both connected.

    Raises:
        SettingsError: settings contradict each other, or bytes would travel in the clear.
        BrokerUnavailable: no broker answers within 15 s.
        BrokerRefused: wrong password, untrusted certificate, no such topic.
    """
    brokers = Brokers(kafka, insecure_dev=insecure_dev)
    source = KafkaSource(brokers, stream.group_id, stream.requests)
    try:
        source.require_topics({stream.requests, stream.results_topic, stream.dead_letters_topic})
        sink = KafkaSink(brokers, kafka, stream.group_id, source.membership)
        if stream.delivery == "exactly_once":
            sink.fence_predecessor()
    except BaseException:
        source.close(timeout_s=1)
        raise
    return source, sink
