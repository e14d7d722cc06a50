"""The broker dies and comes back, on the same port with the same data; nobody else is restarted.

Starting a broker takes seconds, so that all of this is about one outage, lived through by several members.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from deploy.local.kafka import KafkaServer
from scorer.errors import BrokerUnavailable
from scorer.stream.broker import Outgoing, Record, TopicPartition
from tests.scorer.stream.kafka_peers import Member, Site, turn_until, wait_until

REQUESTS = 20


class Deliveries:
    """Delivers one record after the other on a thread of its own, each until it is acknowledged."""

    def __init__(self, member: Member, topic: str, topic_partition: TopicPartition | None) -> None:
        self.acknowledged: list[bytes] = []
        self._member, self._topic, self._topic_partition = member, topic, topic_partition
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def stop(self) -> None:
        """End after the record under way."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            value = b"%d" % len(self.acknowledged)
            record = Outgoing(self._topic, None, value)
            try:
                if self._topic_partition:
                    self._member.sink.deliver_once([record], {self._topic_partition: int(value) + 1})
                else:
                    self._member.sink.deliver([record])
            except BrokerUnavailable:
                self._stop.wait(0.2)
            else:
                self.acknowledged.append(value)


class Witness:
    """A member that reads, and delivers once or at least once, before, during and after the outage."""

    def __init__(self, site: Site, delivery: str) -> None:
        self.site, self.once = site, delivery == "exactly_once"
        site.create_topics()
        site.produce(site.requests(REQUESTS))
        self.member = site.join(delivery=delivery)
        turn_until([self.member], lambda: len(self.member.polled) == REQUESTS, "all records")
        topic_partition = TopicPartition(site.stream.requests, 0) if self.once else None
        self.deliveries = Deliveries(self.member, site.stream.results, topic_partition)
        wait_until(lambda: len(self.deliveries.acknowledged) > 3, "the first results")

    def live_through(self) -> None:
        """Poll while nobody is there."""
        for _ in range(10):
            assert self.member.turn() == []

    def recover(self) -> list[bytes]:
        """Go on until results and requests flow again; return what a reader sees of the results."""
        before = len(self.deliveries.acknowledged)
        wait_until(lambda: len(self.deliveries.acknowledged) > before + 3, "results after the outage")
        self.deliveries.stop()
        self.site.produce(self.site.requests(5))
        turn_until([self.member], lambda: len(self.member.polled) >= REQUESTS + 5, "requests after the outage")
        return [record.value for record in self.site.read(self.site.stream.results)]


@dataclass
class Outage:
    """What was seen."""

    witnesses: dict[str, Witness]
    refused_commit: BaseException | None = None
    left: list[str] = field(default_factory=list)
    forgotten: set[Record] = field(default_factory=set)
    results: dict[str, list[bytes]] = field(default_factory=dict)


@pytest.fixture(scope="module")
def outage(kafka_server: KafkaServer, open_site: Callable[[], Site]) -> Outage:
    """Kill the broker under two members that work, one that leaves meanwhile and one with a session too short."""
    seen = Outage({delivery: Witness(open_site(), delivery) for delivery in ("at_least_once", "exactly_once")})
    leaver = Witness(open_site(), "at_least_once")
    leaver.deliveries.stop()
    asleep = open_site()
    asleep.create_topics(2)
    asleep.produce(asleep.requests(10))
    forgotten = asleep.join(session_timeout_s=1)
    turn_until([forgotten], lambda: len(forgotten.polled) == 10, "all records")
    kafka_server.kill()
    try:
        for witness in seen.witnesses.values():
            witness.live_through()
        member = seen.witnesses["at_least_once"].member
        try:
            member.source.commit(member.offsets(member.owned))
        except BrokerUnavailable as error:
            seen.refused_commit = error
        leaver.member.offsets = lambda _topic_partitions: {}  # type: ignore[method-assign]  # there is nobody to commit to
        leaving = threading.Thread(target=lambda: (leaver.member.source.close(1), leaver.member.sink.close(1)))
        leaving.start()
        leaving.join(20)
        seen.left = [what for what, _ in leaver.member.told] + (["hangs"] if leaving.is_alive() else [])
    finally:
        kafka_server.start()
    asleep.produce(asleep.requests(10))
    turn_until([forgotten], lambda: len(set(forgotten.polled)) == 20, "what was written after the outage")
    turn_until([forgotten], lambda: len(forgotten.owned) == 2, "all partitions")
    seen.forgotten = set(forgotten.polled)
    seen.results = {delivery: witness.recover() for delivery, witness in seen.witnesses.items()}
    return seen


@pytest.mark.parametrize("delivery", ["at_least_once", "exactly_once"])
def test_reading_goes_on_where_it_stopped(outage: Outage, delivery: str) -> None:
    """No record is left out or comes twice, and nobody took the partition away."""
    member = outage.witnesses[delivery].member
    assert [record.offset for record in member.polled] == list(range(REQUESTS + 5))
    assert [what for what, _ in member.told] == ["assigned"]


@pytest.mark.parametrize("delivery", ["at_least_once", "exactly_once"])
def test_writing_goes_on_and_loses_nothing(outage: Outage, delivery: str) -> None:
    """What was acknowledged is there, in order; in transactions it is there once."""
    seen, acknowledged = outage.results[delivery], outage.witnesses[delivery].deliveries.acknowledged
    assert list(dict.fromkeys(seen)) == acknowledged
    assert delivery == "at_least_once" or seen == acknowledged


def test_commits_say_that_nothing_was_stored(outage: Outage) -> None:
    """During the outage with an exception, after it with success."""
    assert outage.refused_commit is not None
    member = outage.witnesses["at_least_once"].member
    member.source.commit(member.offsets(member.owned))


def test_leaving_needs_no_broker(outage: Outage) -> None:
    """A worker can leave during an outage: its listener is told, and nothing waits for an answer."""
    assert outage.left == ["assigned", "revoked"]


def test_a_member_that_was_forgotten_comes_back(outage: Outage) -> None:
    """After an outage longer than the session, every record was read and all partitions are owned."""
    assert len(outage.forgotten) == 20
