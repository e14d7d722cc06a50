"""The broker dies and comes back, on the same port with the same data; nobody else is restarted."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from deploy.local.kafka import KafkaServer
from scorer.stream.broker import BrokerUnavailable, Outgoing, Place, Position
from tests.scorer.stream.kafka_peers import Site, turn_until, wait_until


@contextmanager
def outage(server: KafkaServer) -> Iterator[None]:
    """Kill the broker, and start it again whatever happens."""
    server.kill()
    try:
        yield
    finally:
        server.start()


class Deliveries:
    """Delivers one record after the other on a thread of its own, each until it is acknowledged."""

    def __init__(self, site: Site, member: object, *, once: bool) -> None:
        self.acknowledged: list[bytes] = []
        self.outages = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(site, member, once))
        self._thread.start()

    def stop(self) -> None:
        """End after the record under way."""
        self._stop.set()
        self._thread.join()

    def _run(self, site: Site, member: object, once: bool) -> None:  # noqa: FBT001 - a thread's arguments
        place = Place(site.stream.requests, 0)
        while not self._stop.is_set():
            value = b"%d" % len(self.acknowledged)
            record = Outgoing(site.stream.results, None, value)
            try:
                if once:
                    member.sink.deliver_once([record], {place: Position(int(value) + 1)})
                else:
                    member.sink.deliver([record])
            except BrokerUnavailable:
                self.outages += 1
                self._stop.wait(0.2)
            else:
                self.acknowledged.append(value)


@pytest.mark.parametrize("delivery", ["at_least_once", "exactly_once"])
def test_everything_goes_on_after_a_crash_of_the_broker(site: Site, kafka_server: KafkaServer, delivery: str) -> None:
    """Polls return nothing and raise nothing, commits say so, and then records flow, commits hold and none is lost."""
    site.create_topics()
    site.produce(site.requests(20))
    once = delivery == "exactly_once"
    member = site.join(delivery=delivery)
    turn_until([member], lambda: len(member.polled) == 20, "all records")
    deliveries = Deliveries(site, member, once=once)
    wait_until(lambda: len(deliveries.acknowledged) > 3, "the first results")
    with outage(kafka_server):
        for _ in range(20):
            assert member.turn() == []
        if not once:
            with pytest.raises(BrokerUnavailable):
                member.source.commit(member.positions(member.owned))
    before = len(deliveries.acknowledged)
    wait_until(lambda: len(deliveries.acknowledged) > before + 3, "results after the outage")
    deliveries.stop()
    site.produce(site.requests(5))
    turn_until([member], lambda: len(member.polled) == 25, "requests after the outage")
    assert [record.offset for record in member.polled] == list(range(25))
    member.source.commit(member.positions(member.owned))
    assert [what for what, _ in member.told] == ["assigned"]
    seen = [record.value for record in site.read(site.stream.results)]
    assert list(dict.fromkeys(seen)) == deliveries.acknowledged
    assert not once or len(seen) == len(set(seen))


def test_a_member_finds_its_partitions_again_when_the_group_forgot_it(site: Site, kafka_server: KafkaServer) -> None:
    """After an outage longer than the session, partitions are lost or kept, and every record is read."""
    site.create_topics(2)
    site.produce(site.requests(10))
    member = site.join(session_timeout_s=1)
    turn_until([member], lambda: len(member.polled) == 10, "all records")
    with outage(kafka_server):
        member.turn()
    site.produce(site.requests(10))
    turn_until([member], lambda: len(set(member.polled)) == 20, "all records")
    turn_until([member], lambda: len(member.owned) == 2, "all partitions")


def test_closing_needs_no_broker(site: Site, kafka_server: KafkaServer) -> None:
    """A worker can leave during an outage: its listener is told, and nothing waits for an answer."""
    site.create_topics()
    member = site.join(delivery="exactly_once")
    turn_until([member], lambda: member.owned, "the partition")
    with outage(kafka_server):
        closing = threading.Thread(target=lambda: (member.source.close(1), member.sink.close(1)))
        closing.start()
        closing.join(20)
        assert not closing.is_alive()
    assert [what for what, _ in member.told] == ["assigned", "revoked"]
