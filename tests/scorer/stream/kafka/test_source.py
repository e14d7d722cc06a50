"""Reading from a real broker: positions, notes, rebalances, and hostile records."""

import threading
import time
from collections import Counter

import pytest
from kafka import KafkaAdminClient, KafkaProducer
from kafka import TopicPartition as KafkaTopicPartition

from deploy.local.kafka import KafkaServer
from scorer.errors import BrokerRefused, BrokerUnavailable
from scorer.messages import DeadLetterCode
from scorer.stream.broker import Outgoing, TopicPartition
from scorer.stream.dead_letters import make_dead_letter, restore
from scorer.stream.kafka.connect import open_dead_letters
from tests.scorer.stream.kafka_peers import Runner, Site, turn_until, wait_until


def test_records_come_as_they_were_written(site: Site) -> None:
    """Key, value and headers arrive byte for byte, absent ones as None, in order; 40 MiB pass."""
    site.create_topics()
    topic = site.stream.requests
    large = bytes(range(256)) * (40 << 12)
    outgoing = [
        Outgoing(topic, b"k", b"v", (("a", b"1"), ("a", b"2"), ("", b""))),
        Outgoing(topic, None, b""),
        Outgoing(topic, b"", None),
        Outgoing(topic, None, None),
        Outgoing(topic, b"large", large),
    ]
    site.produce(outgoing)
    member = site.join()
    turn_until([member], lambda: len(member.polled) == len(outgoing), "all records")
    assert [Outgoing(r.topic, r.key, r.value, r.headers) for r in member.polled] == outgoing
    assert [record.offset for record in member.polled] == list(range(len(outgoing)))
    assert all(abs(record.timestamp_ms / 1000 - time.time()) < 60 for record in member.polled)


@pytest.mark.parametrize("codec", ["gzip", "lz4", "snappy", "zstd"])
def test_producers_may_compress(site: Site, codec: str) -> None:
    """Each of Kafka's codecs is read."""
    site.create_topics()
    producer = KafkaProducer(bootstrap_servers=site.kafka.bootstrap, compression_type=codec)
    producer.send(site.stream.requests, b"value" * 1000)
    producer.close()
    member = site.join()
    turn_until([member], lambda: member.polled, "the record")
    assert member.polled[0].value == b"value" * 1000


def test_a_note_is_received_before_the_first_record(site: Site) -> None:
    """The next owner of a partition receives 4,000 bytes of note, and continues at the committed offset."""
    site.create_topics(2)
    site.produce(site.requests(40))
    first = site.join()
    first.note = "é" * 2000
    turn_until([first], lambda: len(first.polled) == 40, "all records")
    ends = dict(first.done)
    first.done = {topic_partition: end - 3 for topic_partition, end in ends.items()}
    first.source.close(timeout_s=2)
    second = site.join()
    turn_until([second], lambda: len(second.polled) == 6, "the records that were not acknowledged")
    assert first.owned == {}
    assert second.owned == dict.fromkeys(ends, "é" * 2000)
    assert Counter(record.topic_partition for record in second.polled) == dict.fromkeys(ends, 3)


def test_a_group_that_never_committed_starts_at_the_beginning(site: Site) -> None:
    """There is no note of such a partition, and its first record comes first."""
    site.create_topics(2)
    member = site.join()
    turn_until([member], lambda: member.owned, "an assignment")
    assert member.owned == {TopicPartition(site.stream.requests, 0): "", TopicPartition(site.stream.requests, 1): ""}


def test_paused_partitions_return_no_records(site: Site) -> None:
    """No record is returned from a paused partition, all after it is resumed; other partitions are ignored."""
    site.create_topics(2)
    member = site.join()
    turn_until([member], lambda: member.owned, "an assignment")
    quiet, unknown = TopicPartition(site.stream.requests, 0), TopicPartition("somewhere", 3)
    member.source.pause([quiet, unknown])
    site.produce(site.requests(40))
    turn_until([member], lambda: member.polled, "records of the other partition")
    for _ in range(10):
        member.turn()
    assert quiet not in {record.topic_partition for record in member.polled}
    member.source.resume([quiet, unknown])
    turn_until([member], lambda: len(member.polled) == 40, "all records")


def test_a_resumed_partition_is_read_when_all_others_are_empty(site: Site) -> None:
    """Records fetched before a pause are returned after it, although another partition was read to its end."""
    site.create_topics(2)
    site.produce(site.requests(40))
    member = site.join()
    first = None
    while first is None:
        first = next(iter(member.source.poll(0.05, 1)), None)
    member.source.pause([first.topic_partition])
    others = {
        topic_partition
        for topic_partition in (TopicPartition(site.stream.requests, each) for each in (0, 1))
        if topic_partition != first.topic_partition
    }
    turn_until(
        [member],
        lambda: others and all(member.source.lag().get(topic_partition) == 0 for topic_partition in others),
        "the other's end",
    )
    member.turn()
    member.source.resume([first.topic_partition])
    turn_until([member], lambda: len(member.polled) == 39, "all records")


@pytest.mark.slow
def test_rebalances_lose_and_repeat_nothing(site: Site) -> None:
    """While members join and leave, each record is acknowledged once, in order, and all are committed."""
    site.create_topics(6)
    stop = threading.Event()
    produced: list[Outgoing] = []

    def produce() -> None:
        _, sink = site.connect()
        while not stop.is_set():
            some = [Outgoing(site.stream.requests, b"%d" % n, b"v") for n in range(len(produced), len(produced) + 20)]
            sink.deliver(some)
            produced.extend(some)
            time.sleep(0.02)

    producer = threading.Thread(target=produce)
    producer.start()
    members = [site.join() for _ in range(3)]
    runners = []
    for size, member in enumerate(members, start=1):
        runners.append(Runner(member))
        present = members[:size]
        wait_until(lambda present=present: {len(m.owned) for m in present} == {6 // len(present)}, "a fair share")
    runners[0].stop()
    wait_until(lambda: {len(m.owned) for m in members[1:]} == {3}, "what the first one left")
    stop.set()
    producer.join()
    wait_until(lambda: sum(len(m.polled) for m in members) >= len(produced), "all records")
    runners[1].stop()
    runners[2].stop()
    seen = [(record.partition, record.offset) for member in members for record in member.polled]
    assert len(seen) == len(set(seen)) == len(produced)
    for member in members:
        for partition in range(6):
            offsets = [record.offset for record in member.polled if record.partition == partition]
            assert offsets == sorted(offsets)
    assert all("lost" not in {what for what, _ in member.events} for member in members)
    successor = site.join()
    turn_until([successor], lambda: len(successor.owned) == 6, "all partitions")
    for _ in range(20):
        successor.turn()
    assert not successor.polled


def test_only_reassigned_partitions_are_revoked(site: Site) -> None:
    """A new member receives half of the partitions; the other half stays with its owner."""
    site.create_topics(4)
    first = site.join()
    turn_until([first], lambda: len(first.owned) == 4, "all partitions")
    second = site.join()
    turn_until([first, second], lambda: len(second.owned) == 2, "half of them")
    revoked = [topic_partitions for what, topic_partitions in first.events if what == "revoked"]
    assert len(revoked) == 1
    assert revoked[0] == frozenset(second.owned)


def test_revoked_partitions_are_finished_while_heartbeats_continue(site: Site) -> None:
    """Three seconds in on_revoked with a session of two: still a member, the commit works, no other member reads."""
    slow = site.join_with_records(40, 2, session_timeout_s=2)
    threads: list[str] = []

    def wait_in_callback(_topic_partitions: object) -> None:
        threads.append(threading.current_thread().name)
        time.sleep(3)
        assert not successor.owned

    slow.before_revoked, slow.note = wait_in_callback, "finished late"
    successor = site.join(session_timeout_s=2)
    runner = Runner(successor)
    turn_until([slow], lambda: len(successor.owned) == 1, "the other's partition")
    runner.stop()
    assert threads == [threading.current_thread().name]
    assert list(successor.started.values()) == ["finished late"]
    assert not successor.polled
    assert {what for what, _ in slow.events} == {"assigned", "revoked"}
    slow.before_revoked = lambda _topic_partitions: None


def test_commits_during_a_rebalance_are_refused_and_repeated(site: Site) -> None:
    """During a rebalance a commit fails at once; after it the same commit succeeds."""
    member = site.join_with_records(10, 2)
    other = site.join()

    def is_refused() -> bool:
        try:
            member.source.commit(member.offsets(member.owned))
        except BrokerUnavailable:
            return True
        return False

    turn_until([other, member], is_refused, "a commit in the middle of a rebalance")
    turn_until([other, member], lambda: len(other.owned) == len(member.owned) == 1, "an even split")
    turn_until([other, member], lambda: not is_refused(), "a commit after it")


def test_only_owned_partitions_are_committed(site: Site) -> None:
    """Neither a partition that was never assigned nor one that was reassigned."""
    first = site.join_with_records(10, 2)
    before = first.offsets(first.owned)
    second = site.join()
    turn_until([first, second], lambda: second.owned, "a partition that moved")
    with pytest.raises(ValueError, match="does not own"):
        first.source.commit(before)
    with pytest.raises(ValueError, match="does not own"):
        first.source.commit({TopicPartition("somewhere", 0): 1})


def test_a_stalled_member_is_told_its_lost_partitions(site: Site) -> None:
    """After max.poll.interval without a poll another member owns all partitions: commits fail, on_lost is called."""
    stalled = site.join_with_records(10, 2, max_poll_interval_s=1.5)
    topic_partitions = frozenset(stalled.owned)
    successor = site.join()
    turn_until([successor], lambda: len(successor.owned) == 2, "the partitions of the stalled member")
    with pytest.raises(BrokerUnavailable):
        stalled.source.commit(stalled.offsets(topic_partitions))
    turn_until([successor, stalled], lambda: ("lost", topic_partitions) in stalled.events, "the loss")
    turn_until([successor, stalled], lambda: len(successor.polled) == 10, "the records again")


def test_header_names_of_any_bytes_are_read(site: Site) -> None:
    """A record with a header name that is not UTF-8 is read once, like the others, and written unchanged."""
    site.create_topics()
    topic = site.stream.requests
    odd = b"\xff\xfe".decode("utf-8", "surrogateescape")
    sent = [Outgoing(topic, b"%d" % n, b"value %d" % n, ((odd, b"v"), ("null", None)) * (n == 2)) for n in range(5)]
    site.produce(sent)
    member = site.join()
    turn_until([member], lambda: len(member.polled) == 5, "five records")
    assert [(record.value, record.headers) for record in member.polled] == [(each.value, each.headers) for each in sent]
    assert [record.offset for record in member.polled] == [0, 1, 2, 3, 4]
    member.source.commit(member.offsets(member.owned))
    record = member.polled[2]
    letter = make_dead_letter(record, site.stream.dead_letters, DeadLetterCode.NOT_JSON, "no JSON", 1, "digest")
    member.sink.deliver([letter])
    log = open_dead_letters(site.kafka, site.stream)
    (read,) = log.read({})
    log.close()
    assert restore(read) == sent[2]


def test_a_damaged_batch_is_fetched_again(site: Site, kafka_server: KafkaServer) -> None:
    """A batch with a wrong checksum is an outage of reading, until the broker sends it intact."""
    site.create_topics()
    value = b"a value in a segment"
    site.produce([Outgoing(site.stream.requests, None, value)])
    (segment,) = (kafka_server.log.parent / "data" / f"{site.stream.requests}-0").glob("*.log")
    position = segment.read_bytes().index(value)

    def write(content: bytes) -> None:
        with segment.open("r+b") as file:
            file.seek(position)
            file.write(content)

    write(value.upper())
    member = site.join()
    turn_until([member], lambda: member.owned, "an assignment")
    for _ in range(20):
        assert not member.turn()
    write(value)
    turn_until([member], lambda: member.polled, "the record")


def test_expired_records_are_reported(site: Site) -> None:
    """Records that the broker deleted before they were read are reported, before a start and during a pause."""
    first = site.join_with_records(5)
    first.source.close(timeout_s=2)
    site.produce(site.requests(15))
    delete_records(site, 15)
    second = site.join()
    turn_until([second], lambda: len(second.polled) == 5, "the five that are left")
    assert second.expired == [(site.first, 5, 15)]
    second.source.pause([site.first])
    second.turn()
    site.produce(site.requests(3))
    delete_records(site, 23)
    second.source.resume([site.first])
    turn_until([second], lambda: len(second.expired) == 2, "the second account")
    assert second.expired[1] == (site.first, 20, 23)


def delete_records(site: Site, before: int) -> None:
    """Delete the requests below an offset, as retention does."""
    admin = KafkaAdminClient(bootstrap_servers=site.kafka.bootstrap)
    admin.delete_records({KafkaTopicPartition(site.stream.requests, 0): before})
    admin.close()


def test_a_missing_topic_is_refused(site: Site) -> None:
    """Connecting names the missing topics instead of creating them."""
    with pytest.raises(BrokerRefused, match=r"has no topic .*requests"):
        site.connect()


@pytest.fixture
def _brief(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scorer.stream.kafka.client.CONNECT_S", 1)


@pytest.mark.usefixtures("_brief")
def test_no_broker_is_an_outage(site: Site) -> None:
    """Connecting without a broker fails after a bounded time and leaves no thread."""
    before = threading.active_count()
    with pytest.raises(BrokerUnavailable, match="no connection"):
        site.connect(bootstrap="127.0.0.1:1")
    wait_until(lambda: threading.active_count() <= before, "the client's threads to end")
