"""Progress where a person reads it, and where a machine does."""

import io
import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from scorer.commands import progress
from scorer.commands.progress import INTERVAL_S, Progress


class Clock:
    """A clock that advances only when the test sets it."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock that progress goes by."""
    clock = Clock()
    monkeypatch.setattr(progress, "monotonic", clock)
    return clock


@given(seconds=st.lists(st.floats(0, 3 * INTERVAL_S), max_size=40), begins=st.sets(st.integers(0, 40)))
def test_lines_come_at_most_once_an_interval(seconds: list[float], begins: set[int]) -> None:
    """However fast the pieces come and however often a part begins, and a piece after an interval has its line."""
    clock, output = Clock(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(progress, "monotonic", clock)
        last_s, lines = clock.now_s, 0
        with Progress("working", None, console=Console(file=output)) as shown:
            for number, passed_s in enumerate(seconds):
                clock.now_s += passed_s
                if number in begins:
                    shown.begin(None)
                shown.advance()
                if clock.now_s - last_s >= INTERVAL_S:
                    last_s, lines = clock.now_s, lines + 1
                assert output.getvalue().count("\n") == lines


def test_a_line_says_what_is_done_how_fast_and_how_long_it_takes(clock: Clock) -> None:
    """What an earlier run did counts as done, not for the speed; the facts are the latest ones."""
    output = io.StringIO()
    with Progress("scanning", None, "files", Console(file=output)) as shown:
        clock.now_s += 5  # listing them
        shown.begin(total=100, done=40)
        shown.advance(20, flagged=1, slowest="decode")
        clock.now_s += 10
        shown.advance(20, flagged=3, slowest="a name :smile: [bold] of more than eighty characters " + "x" * 80)
    line = json.loads(output.getvalue())
    assert line.pop("slowest").startswith("a name :smile: [bold] of")
    assert line == {"done": 80, "total": 100, "files_per_s": 4.0, "left_s": 5, "flagged": 3}


def test_nobody_guesses_what_is_left_of_an_unknown_number(clock: Clock) -> None:
    """Without a total, and before anything was done, there are no remaining seconds."""
    output = io.StringIO()
    with Progress("fitting", None, "steps", Console(file=output)) as shown:
        clock.now_s += INTERVAL_S
        shown.advance(5)
        clock.now_s += INTERVAL_S
        shown.begin(10, 2)
        shown.advance(0)
    first, second = map(json.loads, output.getvalue().splitlines())
    assert first == {"done": 5, "total": None, "steps_per_s": 0.5, "left_s": None}
    assert second == {"done": 2, "total": 10, "steps_per_s": 0.0, "left_s": None}


def test_a_terminal_shows_a_bar_and_no_json(clock: Clock) -> None:
    """Label, numbers, unit and facts are shown beside it; a name in brackets is not markup."""
    output = io.StringIO()
    with Progress("scanning [red]", 9999, "files", Console(file=output, force_terminal=True, width=200)) as shown:
        clock.now_s += INTERVAL_S
        shown.advance(95, faces=1007, faces_per_s=12.5, slowest="[decode]")
    text = output.getvalue()
    assert "scanning [red]" in text
    assert "95/9999" in text.replace("\x1b[32m", "").replace("\x1b[0m", "")
    assert "files, 1,007 faces, 12.5 faces/s, slowest [decode]" in text
    assert "{" not in text


@pytest.mark.parametrize(("fails", "left"), [(False, "comparing: 2 engines in 12 s\n"), (True, "")])
def test_a_summary_is_left_of_what_was_finished(clock: Clock, *, fails: bool, left: str) -> None:
    """One line with the seconds if requested, and none for a part that failed."""
    output = io.StringIO()
    part = Progress("comparing", 2, "engines", Console(file=output), summary=True)
    with suppress(ZeroDivisionError), part as shown:
        shown.advance(2)
        clock.now_s += 12
        assert 1 / (not fails)
    assert output.getvalue() == left
