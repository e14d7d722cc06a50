"""Membership of a group on a real broker."""

import time

import pytest
from kafka import errors
from kafka.structs import ConsumerGroupMetadata

from scorer.errors import BrokerRefused
from tests.scorer.stream.kafka_peers import Site, turn_until, wait_until


def test_a_join_for_new_metadata_ends(site: Site) -> None:
    """A leader whose polls are too short to await such a join gets in, and commits."""
    site.create_topics(2)
    site.produce(site.requests(1))
    member = site.join()
    turn_until([member], lambda: member.polled, "the record")
    coordinator = member.source._consumer._coordinator  # noqa: SLF001 - such a change cannot be timed from outside
    coordinator._assignment_snapshot = {}  # noqa: SLF001 - as if the leader had assigned partitions of other metadata
    until = time.monotonic() + 1
    while time.monotonic() < until:
        member.source.poll(0, 1)
        time.sleep(0.01)
    wait_until(lambda: member.source.poll(0.05, 1) or coordinator.stable(), "the group")
    member.source.commit(
        {topic_partition: end for topic_partition, end in member.done.items() if topic_partition in member.owned}
    )


def test_a_join_that_an_outage_interrupts_is_repeated(site: Site) -> None:
    """If the coordinator fails meanwhile, the leader joins again."""
    site.create_topics(2)
    member = site.join()
    turn_until([member], lambda: len(member.owned) == 2, "the partitions")
    coordinator = member.source._consumer._coordinator  # noqa: SLF001 - such an outage cannot be timed from outside
    join = coordinator._do_join_and_sync_async  # noqa: SLF001

    async def fail() -> bytes:
        coordinator._do_join_and_sync_async = join  # noqa: SLF001 - the next attempt is a real one
        coordinator._assignment_snapshot = coordinator._metadata_snapshot  # noqa: SLF001 - as at first
        coordinator.coordinator_dead("unavailable")
        raise errors.CoordinatorNotAvailableError

    coordinator._do_join_and_sync_async = fail  # noqa: SLF001
    coordinator._assignment_snapshot = {}  # noqa: SLF001 - as if the leader had assigned partitions of other metadata
    turn_until([member], lambda: not coordinator._heartbeat_enabled, "the join that is cut off")  # noqa: SLF001
    turn_until([member], lambda: coordinator._heartbeat_enabled, "heartbeats")  # noqa: SLF001
    assert len(member.owned) == 2


def test_members_with_short_polls_become_stable(site: Site) -> None:
    """Two members whose polls do not wait share the partitions, and do not rebalance again."""
    site.create_topics(2)
    members = [site.join(), site.join()]

    def poll() -> None:
        for member in members:
            member.source.poll(0, 1)
        time.sleep(0.02)

    def list_memberships() -> list[ConsumerGroupMetadata]:
        return [member.source.membership(member.owned.keys()) for member in members]

    def share() -> bool:
        poll()
        if any(len(member.owned) != 1 for member in members):
            return False
        # A member revokes a partition in one generation, and may learn later of the next one, which assigns it.
        return len({membership.generation_id for membership in list_memberships()}) == 1

    wait_until(share, "an even split")
    before = list_memberships()
    for _ in range(100):
        poll()
    assert list_memberships() == before


def test_a_static_member_keeps_its_partitions(site: Site) -> None:
    """With an instance id a restart reassigns nothing, and the replaced member is refused."""
    site.create_topics(4)
    old, other = site.join(instance_id="one"), site.join(instance_id="two")
    turn_until([old, other], lambda: len(old.owned) == len(other.owned) == 2, "an even split")
    new = site.join(instance_id="one")
    turn_until([new, other], lambda: len(new.owned) == 2, "the same partitions")
    assert set(new.owned) == set(old.owned)
    assert {what for what, _ in other.events[2:]} <= {"assigned"}
    with pytest.raises(BrokerRefused, match="instance_id"):
        turn_until([old, other], lambda: False, "the refusal")


@pytest.mark.slow
@pytest.mark.parametrize("stays", [False, True])
def test_a_leaving_static_member_releases_its_partitions(site: Site, stays: bool) -> None:  # noqa: FBT001 - drawn
    """It leaves at once, long before its session ends, unless kafka.stays_member is set."""
    site.create_topics(2)
    site.kafka = site.kafka.model_copy(update={"session_timeout_s": 30})
    leaving = site.join(instance_id="one", stays_member=stays)
    other = site.join(instance_id="two")
    turn_until([leaving, other], lambda: len(leaving.owned) == len(other.owned) == 1, "an even split")
    leaving.source.close(timeout_s=5)
    until = time.monotonic() + 10
    while len(other.owned) < 2 and time.monotonic() < until:
        other.turn()
    assert len(other.owned) == (1 if stays else 2)
