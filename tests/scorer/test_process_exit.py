"""The first signal stops a process in good order, the second one at once."""

import signal

import pytest

from scorer.process_exit import stop_on_signals


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
    """After the first signal both have the handler that was asked for; the old ones return at the end."""
    before = signal.getsignal(signal.SIGTERM)
    with stop_on_signals(lambda: None, second=signal.SIG_DFL):
        signal.raise_signal(signal.SIGTERM)
        assert {signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)} == {signal.SIG_DFL}
    assert signal.getsignal(signal.SIGTERM) is before
