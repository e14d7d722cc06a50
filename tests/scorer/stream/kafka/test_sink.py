"""Writing to a real broker: acknowledged records are stored, and transactions are atomic."""

import time
from contextlib import nullcontext

import pytest
from kafka import KafkaConsumer, KafkaProducer, errors
from kafka import TopicPartition as KafkaTopicPartition
from kafka.partitioner import murmur2

from scorer.errors import BrokerRefused, BrokerUnavailable
from scorer.stream.broker import Outgoing, RecordsTooLarge, TopicPartition
from scorer.stream.kafka.client import ConsumerGroupMetadata, KafkaClientFactory
from scorer.stream.kafka.log import KafkaLog
from scorer.stream.kafka.sink import KafkaSink
from tests.scorer.stream.kafka_peers import Site, turn_until, wait_until

ONCE = "exactly_once"


def results(site: Site, *values: bytes) -> list[Outgoing]:
    """Return results with these values."""
    return [Outgoing(site.stream.results, b"key", value) for value in values]


def values(site: Site) -> list[bytes]:
    """Return what a read_committed reader sees of the results."""
    return [record.value for record in site.read(site.stream.results)]


def stored(site: Site) -> int | None:
    """Return the group's committed offset of the first partition of the requests."""
    consumer = KafkaConsumer(bootstrap_servers=site.kafka.bootstrap, group_id=site.stream.group_id)
    try:
        offset: int | None = consumer.committed(KafkaTopicPartition(site.stream.requests, 0), timeout_ms=10_000)
    finally:
        consumer.close()
    return offset


def test_acknowledged_records_are_stored(site: Site) -> None:
    """After `deliver` a reader sees all records; those of one key are in one partition, in order."""
    site.create_topics(4)
    sent = [Outgoing(site.stream.requests, b"%d" % (n % 7), b"%d" % n, (("h", b"x"),)) for n in range(700)]
    _, sink = site.connect()
    sink.deliver(sent[:300])
    sink.deliver(sent[300:])
    sink.deliver([])
    read = site.read(site.stream.requests)
    assert len(read) == 700
    for key in {each.key for each in sent}:
        of_key = [each for each in read if each.key == key]
        assert len({each.partition for each in of_key}) == 1
        assert [each.value for each in of_key] == [each.value for each in sent if each.key == key]


def test_keys_choose_the_partition_of_the_java_client(site: Site) -> None:
    """The murmur2 hash of a key, or of the first 4 KiB of a longer one."""
    site.create_topics(8)
    _, sink = site.connect()
    keys = [bytes([n]) * length for n in range(8) for length in (1, 100, 4096, 4097, 1 << 20)]
    sink.deliver([Outgoing(site.stream.requests, key, b"") for key in keys])
    chosen = {record.key: record.partition for record in site.read(site.stream.requests)}
    assert chosen == {key: (murmur2(key[:4096]) & 0x7FFFFFFF) % 8 for key in keys}


def test_records_that_the_topic_refuses_are_named(site: Site) -> None:
    """Those over max.message.bytes are named in any batch; the others are stored, and so is the next record."""
    site.create_topics(max_message_bytes="10000")
    _, sink = site.connect()
    large = results(site, b"x" * 20_000)
    with pytest.raises(RecordsTooLarge, match=r"max\.message\.bytes") as refused:
        sink.deliver([*results(site, *[b"y" * 4000] * 5), *large])
    assert refused.value.records == large
    sink.deliver(results(site, b"fits"))
    assert sorted(values(site)) == [b"fits", *[b"y" * 4000] * 5]


def test_refused_records_with_header_names_of_any_bytes_are_named(site: Site) -> None:
    """The client does not split a refused batch, which it could not parse; the others are delivered."""
    site.create_topics(max_message_bytes="10000")
    _, sink = site.connect()
    headers = ((b"\xff\xfe".decode("utf-8", "surrogateescape"), b"v"), ("null", None))
    small = [Outgoing(site.stream.results, b"key", b"%d" % number * 4000, headers) for number in range(5)]
    large = Outgoing(site.stream.results, b"key", b"x" * 20_000, headers)
    with pytest.raises(RecordsTooLarge) as refused:
        sink.deliver([*small, large])
    assert refused.value.records == [large]
    log = KafkaLog(KafkaClientFactory(site.kafka, insecure_dev=False), site.stream.results, site.stream.group)
    found = [(record.value, record.headers) for record in log.read({})]
    log.close()
    assert sorted(found) == [(record.value, headers) for record in small]


@pytest.mark.parametrize("hours", [-90_000, 90_000])
def test_a_wrong_clock_is_no_refusal(site: Site, monkeypatch: pytest.MonkeyPatch, hours: int) -> None:
    """With LogAppendTime the broker accepts a clock that is ten years wrong; otherwise the sink retries."""
    site.create_topics(message_timestamp_type="LogAppendTime")
    _, sink = site.connect()
    send = KafkaProducer.send

    def send_late(producer: KafkaProducer, topic: str, value: bytes, **options: object) -> object:
        return send(producer, topic, value, timestamp_ms=int((time.time() + hours * 3600) * 1000), **options)

    monkeypatch.setattr(KafkaProducer, "send", send_late)
    sink.deliver(results(site, b"stamped by the broker"))
    assert values(site) == [b"stamped by the broker"]
    letter = Outgoing(site.stream.dead_letters, None, b"stamped here")
    with pytest.raises(BrokerUnavailable, match="InvalidTimestamp") if hours > 0 else nullcontext():
        sink.deliver([letter])
    monkeypatch.undo()
    sink.deliver([letter])


def test_transactions_write_results_and_positions_together(site: Site) -> None:
    """Readers see each batch at once, and the group's offset moves with it."""
    member = site.join_with_records(10, delivery=ONCE)
    for number in range(3):
        member.sink.deliver_once(results(site, b"a%d" % number, b"b%d" % number), {site.first: number + 1})
        # The coordinator acknowledges a transaction shortly before its offsets are visible.
        wait_until(lambda number=number: stored(site) == number + 1, "the position")
    assert values(site) == [b"a0", b"b0", b"a1", b"b1", b"a2", b"b2"]
    member.done.clear()
    member.source.close(timeout_s=2)
    successor = site.join()
    turn_until([successor], lambda: successor.owned, "the partition")
    assert successor.owned == {site.first: ""}


def test_a_failed_transaction_writes_nothing(site: Site) -> None:
    """When the last record is refused, readers see none and the offset stays; the next transaction works at once."""
    site.create_topics(max_message_bytes="10000")
    site.produce(site.requests(3))
    member = site.join(delivery=ONCE)
    turn_until([member], lambda: len(member.polled) == 3, "all records")
    with pytest.raises(RecordsTooLarge):
        member.sink.deliver_once(results(site, b"small", b"x" * 20_000), {site.first: 3})
    assert values(site) == []
    assert stored(site) is None
    member.sink.deliver_once(results(site, b"good"), {site.first: 3})
    assert values(site) == [b"good"]
    assert stored(site) == 3


def test_a_batch_over_the_limit_of_small_records_is_written(site: Site) -> None:
    """Records that only share a batch over the limit are stored; those that are too large alone are named."""
    site.create_topics(max_message_bytes="10000")
    site.produce(site.requests(3))
    member = site.join(delivery=ONCE)
    turn_until([member], lambda: len(member.polled) == 3, "all records")
    small = [b"%d" % number * 4000 for number in range(8)]
    member.sink.deliver_once(results(site, *small), {site.first: 2})
    assert values(site) == small
    large = results(site, b"x" * 12_000, b"y" * 30_000)
    letters = [Outgoing(site.stream.dead_letters, b"key", b"z" * 9000) for _ in range(3)]
    with pytest.raises(RecordsTooLarge) as refused:
        member.sink.deliver_once([*results(site, *small), *letters, *large], {site.first: 3})
    assert refused.value.records == large
    assert values(site) == small
    assert stored(site) == 2


def test_partitions_of_others_are_not_stored(site: Site) -> None:
    """Partitions that are not owned are refused before anything is written."""
    member = site.join_with_records(10, delivery=ONCE)
    with pytest.raises(BrokerUnavailable, match="nothing was written"):
        member.sink.deliver_once(results(site, b"x"), {TopicPartition(site.stream.requests, 9): 1})
    with pytest.raises(BrokerUnavailable, match="nothing was written"):
        site.connect()[1].deliver_once(results(site, b"x"), {site.first: 1})
    assert values(site) == []


@pytest.mark.parametrize("instance_id", [None, "one"])
def test_an_outdated_membership_commits_nothing(site: Site, instance_id: str | None) -> None:
    """The broker refuses a transaction of a former membership, which the worker has replaced; a current one works."""
    member = site.join_with_records(10, delivery=ONCE, instance_id=instance_id)
    current = member.source.membership([site.first])
    outdated = [current._replace(generation_id=current.generation_id - 1), current._replace(member_id="somebody")]
    memberships = [*outdated, current]

    def next_membership(_topic_partitions: object) -> ConsumerGroupMetadata:
        return memberships.pop(0)

    sink = KafkaSink(
        KafkaClientFactory(site.kafka, insecure_dev=False), site.kafka, site.stream.group_id, next_membership
    )
    for _ in outdated:
        with pytest.raises(BrokerUnavailable):
            sink.deliver_once(results(site, b"stale"), {site.first: 5})
    sink.deliver_once(results(site, b"current"), {site.first: 6})
    sink.close(timeout_s=2)
    assert values(site) == [b"current"]
    assert stored(site) == 6


def test_a_successor_fences_its_predecessor(site: Site) -> None:
    """With an instance id, the restarted worker aborts the open transaction of the old one, which is refused."""
    member = site.join_with_records(10, delivery=ONCE, instance_id="one")
    member.sink.deliver_once(results(site, b"before"), {site.first: 1})
    old_producer = KafkaClientFactory(site.kafka, insecure_dev=False).open_producer(f"{site.stream.group_id}-one")
    old_producer.init_transactions()
    old_producer.begin_transaction()
    old_producer.send(site.stream.results, b"never finished").get(timeout=10)
    successor = site.join(delivery=ONCE, instance_id="one")
    turn_until([successor], lambda: len(successor.polled) == 9, "what was not committed")
    with pytest.raises(errors.ProducerFencedError):
        old_producer.commit_transaction()
    old_producer.close()
    with pytest.raises(BrokerRefused):
        member.sink.deliver_once(results(site, b"late"), {site.first: 2})
    successor.sink.deliver_once(results(site, b"after"), {site.first: 10})
    assert values(site) == [b"before", b"after"]
    assert stored(site) == 10


def test_without_an_instance_id_a_fenced_producer_is_replaced(site: Site) -> None:
    """With a random id only the coordinator can have fenced it: the next transaction works."""
    member = site.join_with_records(10, delivery=ONCE)
    brokers = KafkaClientFactory(site.kafka, insecure_dev=False)
    fencer = brokers.open_producer(member.sink._transactional_id)  # noqa: SLF001 - it is random
    fencer.init_transactions()
    fencer.close()
    with pytest.raises(BrokerUnavailable):
        member.sink.deliver_once(results(site, b"fenced"), {site.first: 1})
    member.sink.deliver_once(results(site, b"fresh"), {site.first: 2})
    assert values(site) == [b"fresh"]
    assert stored(site) == 2
