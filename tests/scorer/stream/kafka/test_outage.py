"""The broker is killed and restarted on the same port with the same data; nothing else is restarted.

A restart takes seconds, so that all tests share one outage with several members.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from deploy.local.kafka import KafkaServer
from scorer.errors import BrokerUnavailable
from scorer.stream.broker import Outgoing, Record, TopicPartition
from tests.scorer.stream.kafka_peers import Member, Site, turn_until, wait_until

pytestmark = pytest.mark.slow

REQUESTS = 20


class Deliveries:
    """Delivers one record after the other on its own thread, each until it is acknowledged."""

    def __init__(self, member: Member, topic: str, topic_partition: TopicPartition | None) -> None:
        self.acknowledged: list[bytes] = []
        self._member, self._topic, self._topic_partition = member, topic, topic_partition
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def stop(self) -> None:
        """Stop after the current record."""
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


class OutageMember:
    """A member that reads, and delivers, before, during and after the outage."""

    def __init__(self, site: Site, delivery: str) -> None:
        self.site, self.once = site, delivery == "exactly_once"
        self.member = site.join_with_records(REQUESTS, delivery=delivery)
        topic_partition = site.first if self.once else None
        self.deliveries = Deliveries(self.member, site.stream.results, topic_partition)
        wait_until(lambda: len(self.deliveries.acknowledged) > 3, "the first results")

    def poll_in_outage(self) -> None:
        """Poll while there is no broker."""
        for _ in range(10):
            assert self.member.turn() == []

    def recover(self) -> list[bytes]:
        """Continue until all is processed again; return the results that a reader sees."""
        before = len(self.deliveries.acknowledged)
        wait_until(lambda: len(self.deliveries.acknowledged) > before + 3, "results after the outage")
        self.deliveries.stop()
        self.site.produce(self.site.requests(5))
        turn_until([self.member], lambda: len(self.member.polled) >= REQUESTS + 5, "requests after the outage")
        return [record.value for record in self.site.read(self.site.stream.results)]


@dataclass
class Outage:
    """The observations."""

    outage_members: dict[str, OutageMember]
    refused_commit: BaseException | None = None
    left: list[str] = field(default_factory=list)
    forgotten: set[Record] = field(default_factory=set)
    results: dict[str, list[bytes]] = field(default_factory=dict)


@pytest.fixture(scope="module")
def outage(kafka_server: KafkaServer, open_site: Callable[[], Site]) -> Outage:
    """Kill the broker under two members, one that leaves, and one with a short session."""
    seen = Outage({delivery: OutageMember(open_site(), delivery) for delivery in ("at_least_once", "exactly_once")})
    leaver = OutageMember(open_site(), "at_least_once")
    leaver.deliveries.stop()
    idle_site = open_site()
    forgotten = idle_site.join_with_records(10, 2, session_timeout_s=1)
    kafka_server.kill()
    try:
        for outage_member in seen.outage_members.values():
            outage_member.poll_in_outage()
        member = seen.outage_members["at_least_once"].member
        try:
            member.source.commit(member.offsets(member.owned))
        except BrokerUnavailable as error:
            seen.refused_commit = error
        leaver.member.offsets = lambda _topic_partitions: {}  # there is no broker to commit to
        leaving = threading.Thread(target=lambda: (leaver.member.source.close(1), leaver.member.sink.close(1)))
        leaving.start()
        leaving.join(20)
        seen.left = [what for what, _ in leaver.member.events] + (["hangs"] if leaving.is_alive() else [])
    finally:
        kafka_server.start()
    idle_site.produce(idle_site.requests(10))
    turn_until([forgotten], lambda: len(set(forgotten.polled)) == 20, "what was written after the outage")
    turn_until([forgotten], lambda: len(forgotten.owned) == 2, "all partitions")
    seen.forgotten = set(forgotten.polled)
    seen.results = {delivery: outage_member.recover() for delivery, outage_member in seen.outage_members.items()}
    return seen


@pytest.mark.parametrize("delivery", ["at_least_once", "exactly_once"])
def test_reading_continues_where_it_stopped(outage: Outage, delivery: str) -> None:
    """No record is lost or read twice, and the partition is not revoked."""
    member = outage.outage_members[delivery].member
    assert [record.offset for record in member.polled] == list(range(REQUESTS + 5))
    assert [what for what, _ in member.events] == ["assigned"]


@pytest.mark.parametrize("delivery", ["at_least_once", "exactly_once"])
def test_writing_continues_and_loses_nothing(outage: Outage, delivery: str) -> None:
    """Acknowledged records are stored, in order; in transactions exactly once."""
    seen, acknowledged = outage.results[delivery], outage.outage_members[delivery].deliveries.acknowledged
    assert list(dict.fromkeys(seen)) == acknowledged
    assert delivery == "at_least_once" or seen == acknowledged


def test_commits_fail_during_the_outage(outage: Outage) -> None:
    """During the outage with an exception, after it with success."""
    assert outage.refused_commit is not None
    member = outage.outage_members["at_least_once"].member
    member.source.commit(member.offsets(member.owned))


def test_leaving_needs_no_broker(outage: Outage) -> None:
    """A worker leaves during an outage without waiting for an answer."""
    assert outage.left == ["assigned", "revoked"]


def test_a_removed_member_joins_again(outage: Outage) -> None:
    """After an outage longer than the session all is read and owned."""
    assert len(outage.forgotten) == 20
