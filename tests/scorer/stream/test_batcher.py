"""The batcher: full, heavy or old enough."""

import threading

from hypothesis import given
from hypothesis import strategies as st

from scorer.stream.batcher import Batcher


@given(st.lists(st.integers(1, 100), min_size=1, max_size=50), st.integers(1, 8), st.integers(1, 120))
def test_batches_keep_order_and_limits(sizes: list[int], max_items: int, max_bytes: int) -> None:
    """Every item comes out once, in order; a batch breaks a limit only when it is a single item."""
    now = [0.0]
    batcher: Batcher[int] = Batcher(max_items, max_bytes, 1.0, clock=lambda: now[0])
    for number, size in enumerate(sizes):
        batcher.add(number, size)
    now[0] = 2.0
    out: list[int] = []
    while len(out) < len(sizes):
        batch = [item for item, _ in batcher.take()]
        assert 0 < len(batch) <= max_items
        assert len(batch) == 1 or sum(sizes[item] for item in batch) <= max_bytes
        out += batch
    assert out == list(range(len(sizes)))


def test_a_full_batch_does_not_wait() -> None:
    """Enough items or enough bytes are returned at once, on a stopped clock."""
    batcher: Batcher[str] = Batcher(2, 100, 60.0, clock=lambda: 0.0)
    batcher.add("a", 1)
    batcher.add("b", 1)
    assert [item for item, _ in batcher.take()] == ["a", "b"]
    batcher.add("c", 100)
    assert batcher.take() == [("c", 0.0)]


def test_a_single_item_is_returned_when_it_is_old() -> None:
    """A single item waits for its age, and the wait is returned."""
    batcher: Batcher[str] = Batcher(10, 100, 0.01)
    batcher.add("a", 1)
    ((item, waited_s),) = batcher.take()
    assert item == "a"
    assert waited_s >= 0.01


def test_closing_releases_waiting_threads() -> None:
    """A waiting thread receives an empty batch when the batcher closes."""
    batcher: Batcher[str] = Batcher(10, 100, 0.01)
    threading.Timer(0.05, batcher.close).start()
    assert batcher.take() == []
