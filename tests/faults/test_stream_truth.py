"""The state that a worker on a real broker reports: its budget, its position, its lag, its lost records."""

import time
from pathlib import Path

import pytest
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer
from kafka import TopicPartition as KafkaTopicPartition
from kafka.admin import ConfigResource, ConfigResourceType

from scorer.stream.broker import Outgoing
from tests.live_stream import LiveStream, open_stream
from tests.scorer.stream.kafka_peers import wait_until

MIB = 2**20


def find_committed_lag(stream: LiveStream) -> int:
    """Return what KEDA sees: the ends of the requests' partitions minus what the group has committed."""
    site = stream.site
    consumer = KafkaConsumer(bootstrap_servers=site.kafka.bootstrap, group_id=site.stream.group)
    partitions = [KafkaTopicPartition(site.stream.requests, each) for each in range(2)]
    ends = consumer.end_offsets(partitions)
    lag = sum(ends[each] - (consumer.committed(each) or 0) for each in partitions)
    consumer.close(autocommit=False)
    return lag


@pytest.mark.parametrize("delivery", ["at_least_once", "exactly_once"])
def test_committed_lag_reaches_0_behind_transactions(tmp_path: Path, delivery: str) -> None:
    """Behind requests of transactions, the last of them aborted, the committed position is the log's end."""
    with open_stream(tmp_path, stream__delivery=delivery) as stream:
        topic = stream.site.stream.requests
        producer = KafkaProducer(bootstrap_servers=stream.site.kafka.bootstrap, transactional_id=f"{topic}.producer")
        producer.init_transactions()
        for number, end in enumerate((producer.commit_transaction, producer.abort_transaction)):
            producer.begin_transaction()
            for partition in range(2):
                producer.send(topic, b"no request %d" % number, partition=partition)
            producer.flush()
            end()
        producer.close()
        wait_until(lambda: find_committed_lag(stream) == 0, "a committed lag of 0")
        assert len(stream.site.read(stream.site.stream.dead_letters_topic)) == 2
        assert stream.worker.read_metric("unlensed_lag_records") == 0
        stream.site.produce([Outgoing(topic, None, b"no request")])
        wait_until(lambda: len(stream.site.read(stream.site.stream.dead_letters_topic)) == 3, "the next answer")
        assert stream.worker.stop() == 0


def set_topic(stream: LiveStream, topic: str, **configs: str) -> None:
    """Change a topic's settings."""
    admin = KafkaAdminClient(bootstrap_servers=stream.site.kafka.bootstrap)
    admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, configs)])
    admin.close()


def test_answers_that_nobody_acknowledges_are_bounded(tmp_path: Path) -> None:
    """While the dead-letter topic accepts no record, the worker stays within its budget."""
    budget, size, count = 8 * MIB, 64 * 1024, 1000
    with open_stream(tmp_path, stream__max_in_flight_bytes=budget, stream__max_in_flight_images=count) as stream:
        dead = stream.site.stream.dead_letters_topic
        set_topic(stream, dead, **{"max.message.bytes": "100"})
        stream.site.produce([Outgoing(stream.site.stream.requests, None, b"x" * size)] * count)
        wait_until(lambda: stream.worker.read_metric("unlensed_paused"), "a pause")
        held = []
        until_s = time.monotonic() + 15
        while time.monotonic() < until_s:
            held.append(stream.worker.read_metric("unlensed_in_flight_bytes"))
            time.sleep(0.2)
        read = stream.worker.read_metric("unlensed_records_received_total")
        lag = stream.worker.read_metric("unlensed_lag_records")
        set_topic(stream, dead, **{"max.message.bytes": str(MIB)})
        wait_until(lambda: stream.worker.read_metric("unlensed_records_dead_total") == count, "all dead letters")
        assert max(held) <= budget + 64 * size * 7 // 4  # one poll more
        assert read <= budget / size + 64
        assert read + lag == count  # told by the log's end, although nothing is read
        assert stream.worker.stop() == 0


def test_requests_that_retention_took_are_counted_and_named(tmp_path: Path) -> None:
    """What the broker deleted while no worker ran is in a metric, and in the log with its offsets."""
    with open_stream(tmp_path) as stream:
        site, worker = stream.site, stream.worker
        site.produce([Outgoing(site.stream.requests, b"key", b"no request")] * 3)
        wait_until(lambda: find_committed_lag(stream) == 0, "three answers")
        assert worker.stop() == 0
        (partition,) = {record.partition for record in site.read(site.stream.requests)}
        site.produce([Outgoing(site.stream.requests, b"key", b"no request")] * 10)
        admin = KafkaAdminClient(bootstrap_servers=site.kafka.bootstrap)
        admin.delete_records({KafkaTopicPartition(site.stream.requests, partition): 9})
        admin.close()
        worker.start()
        worker.wait_ready()
        wait_until(lambda: find_committed_lag(stream) == 0, "the rest")
        assert worker.read_metric("unlensed_records_expired_total") == 6
        name = "requests expired before they were read"
        (expired,) = (event for event in worker.read_events() if event["event"] == name)
        assert (expired["first_offset"], expired["last_offset"], expired["partition"]) == (3, 8, partition)
        assert worker.stop() == 0
