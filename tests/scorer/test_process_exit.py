"""The first signal stops a process in good order, the second one at once."""

import signal
from collections.abc import Iterator

import pytest

from scorer.process_exit import delay_interrupt, stop_on_signals


@pytest.fixture(autouse=True)
def interrupts() -> Iterator[None]:
    """Ctrl-C raises KeyboardInterrupt, also where the tests run in the background, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_the_second_signal_acts_as_before(first: signal.Signals) -> None:
    """The first signal, whichever it is, calls `stop` once; the next Ctrl-C interrupts."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    calls: list[str] = []
    with stop_on_signals(lambda: calls.append("stop")):
        signal.raise_signal(first)
        assert calls == ["stop"]
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert calls == ["stop"]
    assert before == {number: signal.getsignal(number) for number in before}


def test_the_second_signal_can_end_the_process() -> None:
    """After the first signal both have the requested handler; the old ones return at the end."""
    before = signal.getsignal(signal.SIGTERM)
    with stop_on_signals(lambda: None, second=signal.SIG_DFL):
        signal.raise_signal(signal.SIGTERM)
        assert {signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)} == {signal.SIG_DFL}
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_delayed_interrupt_follows_the_block() -> None:
    """A Ctrl-C in the block interrupts after its last statement; the next one interrupts at once."""
    done: list[str] = []
    with pytest.raises(KeyboardInterrupt):  # noqa: PT012 - the block is the subject
        with delay_interrupt():
            signal.raise_signal(signal.SIGINT)
            done.append("the block")
        done.append("nothing after it")
    assert done == ["the block"]
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_an_ignored_interrupt_stays_ignored() -> None:
    """A job in the background, which ignores Ctrl-C, is not interrupted by a delayed one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with delay_interrupt():
        signal.raise_signal(signal.SIGINT)
