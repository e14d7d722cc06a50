"""Topics of requests and results: fill them, read them, answer them without a score."""

import base64
import json
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from kafka import KafkaConsumer, KafkaProducer
from kafka import TopicPartition as KafkaTopicPartition

from deploy.local.kafka import KafkaServer
from deploy.local.worker import Worker
from scorer.messages import ScoreRequest
from scorer.payloads.local_file import read_image
from scorer.settings import KafkaSettings, StreamSettings
from scorer.stream.broker import Outgoing, TopicPartition
from scorer.stream.kafka.connect import connect

PARTITIONS = 4
DEAD_LETTERS = "unlensed.dead-letters"
STAMPED = {"message_timestamp_type": "LogAppendTime"}


@dataclass(frozen=True, slots=True)
class Result:
    """One result in the broker; `number` is the request's key."""

    number: int
    timestamp_ms: int
    value: bytes


def write_values(requests: Iterable[ScoreRequest]) -> list[bytes]:
    """Return each request as a record's value, with the image's bytes inside."""
    values = []
    for request in requests:
        data = read_image(str(request.image.uri), 2**30)
        body = request.model_dump(include={"request_id", "content_id", "faces"}, exclude_none=True)
        values.append(json.dumps(body | {"image": {"bytes": base64.b64encode(data).decode()}}).encode())
    return values


def open_producer(kafka: KafkaServer) -> KafkaProducer:
    """Return a producer that sends large records at once."""
    return KafkaProducer(bootstrap_servers=kafka.bootstrap, acks="all", max_request_size=2**26, linger_ms=0)


def produce(kafka: KafkaServer, topic: str, values: Sequence[bytes], records: int) -> None:
    """Fill a new topic with the values, repeatedly."""
    kafka.create_topic(topic, PARTITIONS, **STAMPED)
    producer = open_producer(kafka)
    for number in range(records):
        producer.send(topic, values[number % len(values)], key=b"%d" % number)
    producer.flush(300)
    producer.close()


def read_results(kafka: KafkaServer, topic: str) -> list[Result]:
    """Return the current results in a topic, oldest first."""
    topic_partitions = [KafkaTopicPartition(topic, number) for number in range(PARTITIONS)]
    consumer = KafkaConsumer(bootstrap_servers=kafka.bootstrap, enable_auto_commit=False)
    consumer.assign(topic_partitions)
    ends = consumer.end_offsets(topic_partitions)
    consumer.seek_to_beginning(*topic_partitions)
    results = []
    while any(consumer.position(topic_partition) < ends[topic_partition] for topic_partition in topic_partitions):
        for records in consumer.poll(timeout_ms=1000).values():
            results += [Result(int(record.key), record.timestamp, record.value) for record in records]
    consumer.close()
    return sorted(results, key=lambda result: result.timestamp_ms)


def rate_of(times_ms: Sequence[int]) -> float:
    """Return results per second."""
    return (len(times_ms) - 1) / (times_ms[-1] - times_ms[0]) * 1000


def wait_answered(worker: Worker, images: int) -> int:
    """Wait until a worker has answered at least `count`; return how many it has answered."""
    while (answered := int(worker.read_metric("unlensed_records_answered_total"))) < images:
        time.sleep(0.5)
    return answered


class _Nobody:
    """A listener without records in flight."""

    def on_assigned(self, notes: Mapping[TopicPartition, str]) -> None:
        pass

    def on_revoked(self, topic_partitions: Collection[TopicPartition]) -> None:
        pass

    def on_lost(self, topic_partitions: Collection[TopicPartition]) -> None:
        pass


def answer_records(kafka: KafkaServer, requests: str, answers: str, answer: bytes | None) -> Iterator[int]:
    """Consume, answer and commit as the service does, without scoring; yield each batch's size, first 0 once joined.

    `answers` names the new topic and the group. Without an answer, the records are only consumed.
    """
    kafka.create_topic(answers, PARTITIONS)
    stream = StreamSettings(group=answers, requests=requests, results=answers)
    source, sink = connect(KafkaSettings(bootstrap=kafka.bootstrap), stream)
    headers = tuple((f"ce_header_{number}", b"x" * 16) for number in range(7))
    source.subscribe(_Nobody())
    while not source.poll(0.1, 1):
        pass
    try:
        yield 0
        while True:
            records = source.poll(0.1, stream.batch_images)
            if answer is not None:
                sink.deliver([Outgoing(answers, record.key, answer, headers) for record in records])
                source.commit({record.topic_partition: record.offset + 1 for record in records})
            yield len(records)
    finally:
        source.close(5)
        sink.close(5)
