"""Who is suspected after a worker died."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scorer.stream.broker import Position
from scorer.stream.caution import MAX_DEATHS, Note, find_suspects


@given(st.booleans(), st.integers(0, 10**18), st.integers(0, 1000))
def test_a_note_survives_being_written(is_open: bool, until: int, deaths: int) -> None:  # noqa: FBT001 - drawn
    """What is written beside an offset is read back."""
    assert Note.parse(str(Note(is_open, until, deaths))) == Note(is_open, until, deaths)


@pytest.mark.parametrize("text", ["", "open", "open until=9 deaths=-1", "OPEN until=9 deaths=1", "{}", "open deaths=1"])
def test_a_strangers_note_says_nothing(text: str) -> None:
    """A note that another program wrote raises no suspicion."""
    assert find_suspects(Position(5, text)) is None


def test_a_worker_that_left_in_good_order_leaves_no_suspects() -> None:
    """A closed note, none at all, or one of a worker with empty hands lets everything through."""
    assert find_suspects(None) is None
    assert find_suspects(Position(5, str(Note(open=False, until=9)))) is None
    assert find_suspects(Position(5, str(Note(open=True, until=5)))) is None


def test_everything_in_a_dead_workers_hands_is_suspect() -> None:
    """After an open note every record in hand was present at a death, and none after it."""
    suspects = find_suspects(Position(5, str(Note(open=True, until=15))))
    assert suspects
    assert [suspects.deaths_of(offset) for offset in (5, 6, 14, 15)] == [1, 1, 1, 0]


def test_the_record_that_kills_is_found_after_three_deaths() -> None:
    """A record that kills its worker whenever it is begun dies in the crowd once and alone twice; nobody else pays."""
    poison, in_hand = 7, 20
    position = Position(0, str(Note(open=True, until=in_hand)))  # the first worker had all in hand at once
    done: list[int] = []
    worker_deaths = 1
    while True:
        suspects = find_suspects(position)
        assert suspects
        for offset in range(position.offset, suspects.until):
            deaths = suspects.deaths_of(offset)
            if deaths >= MAX_DEATHS:
                assert (offset, worker_deaths, done) == (poison, MAX_DEATHS, list(range(poison)))
                return
            position = Position(offset, str(Note(open=True, until=suspects.until, deaths=deaths)))
            if offset == poison:
                worker_deaths += 1
                break
            done.append(offset)


def test_suspects_that_change_hands_in_peace_stay_suspects() -> None:
    """A closed note keeps what was counted, without adding to it."""
    suspects = find_suspects(Position(5, str(Note(open=False, until=8, deaths=2))))
    assert suspects
    assert [suspects.deaths_of(offset) for offset in (5, 6, 8)] == [2, 1, 0]
