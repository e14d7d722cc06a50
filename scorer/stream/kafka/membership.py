"""Corrects kafka-python's group membership, fetching and offset resets through its private attributes.

Each function names the tests on a real broker that fail without it.
"""

from typing import Any

from scorer.stream.broker import TopicPartition


class _Joining:
    """A running join task; the client awaits it in its next `poll` even if it is done by then."""

    is_done = False

    def __init__(self, task: Any) -> None:  # noqa: ANN401 - the client ships no types
        self.add_callback, self.add_errback = task.add_callback, task.add_errback


def keep_join_task(consumer: Any) -> None:  # noqa: ANN401 - the client ships no types
    """Keep a join whose end `poll` did not wait for; call it after every `poll`.

    The client forgets a join that ends between two polls, and joins again, which starts another rebalance of the whole
    group: members with short polls never become stable. And a leader that joins because the topic's metadata changed
    forgets the reason once it has assigned the partitions, or when an outage interrupts the join: it would never await
    its join, send no heartbeats, and continue with partitions that the group has assigned to others.

    https://github.com/dpkp/kafka-python/pull/2617 corrected a similar race.
    Needed by test_members_with_short_polls_become_stable, test_a_join_for_new_metadata_ends and
    test_a_join_that_an_outage_interrupts_is_repeated in test_membership.py.
    """
    coordinator = consumer._coordinator  # noqa: SLF001 - no public access
    if coordinator._join_task is not None:  # noqa: SLF001
        coordinator._join_task = _Joining(coordinator._join_task)  # noqa: SLF001
    if coordinator.rejoining:  # from a join's first attempt until one succeeds; without heartbeats
        coordinator.rejoin_needed = True


def drop_empty_fetch(consumer: Any) -> None:  # noqa: ANN401 - the client ships no types
    """Let the client return the fetched records of a resumed partition; call it before every `poll`.

    The client searches for them only while no other partition is current, and keeps a partition without further records
    as the current one. It does not fetch those records again, so that the resumed partition would wait until another
    partition receives new records. Since https://github.com/dpkp/kafka-python/pull/2981.
    Needed by test_a_resumed_partition_is_read_when_all_others_are_empty in test_source.py.
    """
    fetcher = consumer._fetcher  # noqa: SLF001 - no public access
    if not fetcher._next_partition_records:  # noqa: SLF001
        fetcher._next_partition_records = None  # noqa: SLF001


def track_resets(consumer: Any) -> dict[TopicPartition, int]:  # noqa: ANN401 - the client ships no types
    """Return a dict that receives positions whose records were deleted, before the client resets them.

    Needed by test_expired_records_are_reported in test_source.py.
    """
    resets: dict[TopicPartition, int] = {}
    subscription = consumer._subscription  # noqa: SLF001 - it has no callback
    request = subscription.request_offset_reset

    def note(partition: tuple[str, int], *strategy: object) -> None:
        position = subscription.assignment[partition].position
        if position is not None:
            resets.setdefault(TopicPartition(*partition), position.offset)
        request(partition, *strategy)

    subscription.request_offset_reset = note
    return resets


def is_fenced(consumer: Any) -> bool:  # noqa: ANN401 - the client ships no types
    """Return whether another worker uses our instance id, after which the client only stops its heartbeats.

    Static membership upstream: https://github.com/dpkp/kafka-python/pull/2625.
    Needed by test_a_static_member_keeps_its_partitions in test_membership.py.
    """
    coordinator = consumer._coordinator  # noqa: SLF001 - no public access
    return (
        coordinator.stable() and not coordinator.rejoin_needed and not coordinator._heartbeat_enabled  # noqa: SLF001
    )


def leave_on_close(consumer: Any) -> None:  # noqa: ANN401 - the client ships no types
    """Let `close` leave the group with a static membership, for which the client sends no LeaveGroup request.

    The option `leave_group_on_close` was proposed in https://github.com/dpkp/kafka-python/pull/2333.
    Needed by test_a_leaving_static_member_releases_its_partitions in test_membership.py.
    """
    consumer._coordinator.is_dynamic_member = lambda: True  # noqa: SLF001 - it has no option for this
