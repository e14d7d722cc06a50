"""The end of a partition on a real broker."""

from typing import Any

from kafka import KafkaProducer

from tests.scorer.stream.kafka_peers import Site, turn_until


def test_lag_counts_unread_records(site: Site) -> None:
    """Lag is the number of offsets after the last record returned, for each partition."""
    site.create_topics()
    site.produce(site.requests(25))
    member = site.join()
    assert member.source.lag() == {}
    polled: list[object] = []
    while not polled:
        polled += member.source.poll(0.1, 10)
    assert member.source.lag() == {site.first: 15}
    while len(polled) < 25:
        polled += member.source.poll(0.1, 10)
    assert member.source.lag() == {site.first: 0}


def test_lag_is_known_while_partitions_are_paused(site: Site) -> None:
    """New records of a paused partition are lag."""
    site.create_topics()
    member = site.join()
    turn_until([member], lambda: member.owned, "an assignment")
    member.source.pause([site.first])
    site.produce(site.requests(7))
    turn_until([member], lambda: member.source.lag() == {site.first: 7}, "the lag")
    assert not member.polled


def open_transaction(site: Site, count: int) -> Any:  # noqa: ANN401 - the client ships no types
    """Return a producer with `count` records in an open transaction."""
    producer = KafkaProducer(bootstrap_servers=site.kafka.bootstrap, transactional_id=f"{site.stream.group}.requests")
    producer.init_transactions()
    producer.begin_transaction()
    for number in range(count):
        producer.send(site.stream.requests, b"%d" % number)
    producer.flush()
    return producer


def test_an_open_transaction_is_seen(site: Site) -> None:
    """The records that it blocks are lag, and its duration is known, until it ends."""
    site.create_topics()
    producer = open_transaction(site, 3)
    site.produce(site.requests(2))
    member = site.join()

    def measured() -> tuple[int, float]:
        return member.source.lag().get(site.first, 0), member.source.blocked_s().get(site.first, 0.0)

    turn_until([member], lambda: measured()[0] == 5 and measured()[1] > 0.5, "the open transaction")
    assert not member.polled
    producer.commit_transaction()
    producer.close()
    turn_until([member], lambda: len(member.polled) == 5 and measured() == (0, 0.0), "its end")


def test_offsets_without_records_are_passed(site: Site) -> None:
    """Ends of transactions and aborted records are skipped, and no lag."""
    site.create_topics()
    producer = open_transaction(site, 3)
    producer.commit_transaction()
    member = site.join()
    turn_until([member], lambda: member.source.skipped() == {site.first: 4}, "the end of the transaction")
    assert member.done == {site.first: 3}
    producer.begin_transaction()
    producer.send(site.stream.requests, b"aborted").get(10)
    producer.abort_transaction()
    producer.close()
    turn_until([member], lambda: member.source.skipped() == {site.first: 6}, "the end of the aborted one")
    turn_until([member], lambda: member.source.lag() == {site.first: 0}, "no lag")
    site.produce(site.requests(1))
    turn_until([member], lambda: member.done == {site.first: 7}, "the next record")
    assert member.source.skipped() == {}
