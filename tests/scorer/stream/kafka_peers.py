"""Helpers of the Kafka tests: topics, members of groups, and readers."""

import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import ExitStack, suppress
from typing import Any

from kafka import KafkaAdminClient, KafkaConsumer
from kafka import TopicPartition as KafkaTopicPartition

from scorer.errors import BrokerRefused, BrokerUnavailable
from scorer.settings import KafkaSettings, StreamSettings
from scorer.stream.broker import Outgoing, Record, TopicPartition
from scorer.stream.kafka.connect import KafkaSink, KafkaSource, connect

WAIT_S = 40


def wait_until(true: Callable[[], object], what: str) -> None:
    """Wait until `true` returns a true value."""
    until = time.monotonic() + WAIT_S
    while not true():
        assert time.monotonic() < until, f"waited {WAIT_S} s for {what}"
        time.sleep(0.01)


class Site:
    """A test's topics and group; it closes what it opens."""

    def __init__(self, kafka: KafkaSettings, stream: StreamSettings) -> None:
        self.kafka, self.stream = kafka, stream
        self._stack = ExitStack()

    @property
    def first(self) -> TopicPartition:
        """The first partition of the requests."""
        return TopicPartition(self.stream.requests, 0)

    def create_topics(self, partitions: int = 1, **configs: str) -> None:
        """Create the requests with `partitions`, and the two others with `configs`."""
        admin = KafkaAdminClient(bootstrap_servers=self.kafka.bootstrap)
        plain = {"num_partitions": 1, "replication_factor": 1}
        topics = {
            self.stream.requests: {**plain, "num_partitions": partitions},
            self.stream.results: {**plain, "configs": {key.replace("_", "."): value for key, value in configs.items()}},
            self.stream.dead_letters: plain,
        }
        admin.create_topics(topics, wait_for_metadata=True)
        admin.close()

    def connect(self, **settings: object) -> tuple[KafkaSource, KafkaSink]:
        """Return a source and a sink, connected."""
        kafka = self.kafka.model_copy(update={name: settings.pop(name) for name in set(settings) - {"delivery"}})
        source, sink = connect(kafka, self.stream.model_copy(update=settings))
        self._stack.callback(sink.close, 2)
        self._stack.callback(_leave, source)
        return source, sink

    def join(self, **settings: object) -> "Member":
        """Return a member of the group that has subscribed and not polled yet."""
        return Member(*self.connect(**settings))

    def join_with_records(self, count: int, partitions: int = 1, **settings: object) -> "Member":
        """Create the topics; return a member that has read `count` requests."""
        self.create_topics(partitions)
        self.produce(self.requests(count))
        member = self.join(**settings)
        turn_until([member], lambda: len(member.polled) == count, "all records")
        return member

    def produce(self, records: Iterable[Outgoing]) -> None:
        """Write requests."""
        _, sink = self.connect()
        sink.deliver(list(records))

    def requests(self, count: int) -> list[Outgoing]:
        """Return requests, each with its own key."""
        return [Outgoing(self.stream.requests, b"%d" % number, b"value %d" % number) for number in range(count)]

    def read(self, topic: str) -> list[Any]:
        """Return the records of a topic for a read_committed reader."""
        consumer = KafkaConsumer(
            bootstrap_servers=self.kafka.bootstrap, isolation_level="read_committed", max_partition_fetch_bytes=64 << 20
        )
        partitions = [KafkaTopicPartition(topic, each) for each in sorted(consumer.partitions_for_topic(topic))]
        consumer.assign(partitions)
        consumer.seek_to_beginning()
        ends = consumer.end_offsets(partitions)
        seen: list[Any] = []
        while any(consumer.position(each) < ends[each] for each in partitions):
            seen += [each for records in consumer.poll(timeout_ms=100).values() for each in records]
        consumer.close()
        return seen

    def close(self) -> None:
        """Close what was opened."""
        self._stack.close()


def _leave(source: KafkaSource) -> None:
    """Leave a group in any state."""
    with suppress(BrokerUnavailable, BrokerRefused):
        source.close(timeout_s=2)


class Member:
    """A member of the group that acknowledges what it polls and commits in `on_revoked`, as the service does."""

    def __init__(self, source: KafkaSource, sink: KafkaSink) -> None:
        self.source, self.sink = source, sink
        self.owned: dict[TopicPartition, str] = {}
        self.started: dict[TopicPartition, str] = {}
        self.events: list[tuple[str, frozenset[TopicPartition]]] = []
        self.polled: list[Record] = []
        self.done: dict[TopicPartition, int] = {}
        self.before_revoked: Callable[[Collection[TopicPartition]], None] = lambda _topic_partitions: None
        self.note = ""
        self.expired: list[tuple[TopicPartition, int, int]] = []
        source.subscribe(self)

    def on_assigned(self, notes: Mapping[TopicPartition, str]) -> None:
        """Note it."""
        self.events.append(("assigned", frozenset(notes)))
        self.owned.update(notes)
        self.started.update(notes)

    def on_revoked(self, topic_partitions: Collection[TopicPartition]) -> None:
        """Commit acknowledged offsets."""
        self.events.append(("revoked", frozenset(topic_partitions)))
        self.before_revoked(topic_partitions)
        self.source.commit(self.offsets(topic_partitions))
        if self.note:
            self.source.write_notes(dict.fromkeys(topic_partitions, self.note))
        self._forget(topic_partitions)

    def on_lost(self, topic_partitions: Collection[TopicPartition]) -> None:
        """Discard them."""
        self.events.append(("lost", frozenset(topic_partitions)))
        self._forget(topic_partitions)

    def on_expired(self, topic_partition: TopicPartition, first: int, until: int) -> None:
        """Note it."""
        self.expired.append((topic_partition, first, until))

    def offsets(self, topic_partitions: Collection[TopicPartition]) -> dict[TopicPartition, int]:
        """Return the offsets that may be committed."""
        return {
            topic_partition: self.done[topic_partition]
            for topic_partition in topic_partitions
            if topic_partition in self.done
        }

    def turn(self, *, commit: bool = False) -> list[Record]:
        """Poll once, acknowledge, and commit if asked to."""
        records = list(self.source.poll(0.05, 100))
        for record in records:
            assert record.topic_partition in self.owned, "a record of a partition that was not assigned"
            self.done[record.topic_partition] = record.offset + 1
        self.polled += records
        if commit:
            with suppress(BrokerUnavailable):
                self.source.commit(self.offsets(self.owned))
        return records

    def _forget(self, topic_partitions: Collection[TopicPartition]) -> None:
        for topic_partition in topic_partitions:
            self.owned.pop(topic_partition)
            self.done.pop(topic_partition, None)


def turn_until(members: Collection[Member], true: Callable[[], object], what: str) -> None:
    """Let members poll in turn until `true` returns a true value."""
    until = time.monotonic() + WAIT_S
    while not true():
        assert time.monotonic() < until, f"waited {WAIT_S} s for {what}"
        for member in members:
            member.turn()


class Runner:
    """Lets a member poll and commit on its own thread until it is stopped, then leave the group."""

    def __init__(self, member: Member) -> None:
        self.member = member
        self.crash: BaseException | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def stop(self) -> None:
        """Stop, and leave the group."""
        self._stop.set()
        self._thread.join()
        if self.crash:
            raise self.crash

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                self.member.turn(commit=True)
            self.member.source.close(timeout_s=2)
        except BaseException as error:  # noqa: BLE001 - raised again on the test's thread
            self.crash = error
