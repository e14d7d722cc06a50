"""Who is suspected after a worker died."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scorer.stream.broker import Position
from scorer.stream.caution import MAX_DEATHS, Note, find_suspects


@given(st.booleans(), st.integers(0, 1000))
def test_a_note_survives_being_written(is_open: bool, deaths: int) -> None:  # noqa: FBT001 - drawn by hypothesis
    """What is written beside an offset is read back."""
    assert Note.parse(str(Note(is_open, deaths))) == Note(is_open, deaths)


@pytest.mark.parametrize("text", ["", "open", "open deaths=-1", "open deaths=99999999999999", "OPEN deaths=1", "{}"])
def test_a_strangers_note_says_nothing(text: str) -> None:
    """A note that another program wrote raises no suspicion."""
    assert find_suspects(Position(5, text), 10) is None


def test_a_worker_that_left_in_good_order_leaves_no_suspects() -> None:
    """A closed note, or none at all, lets everything through."""
    assert find_suspects(None, 10) is None
    assert find_suspects(Position(5, str(Note(open=False))), 10) is None


def test_everything_in_a_dead_workers_hands_is_suspect() -> None:
    """After an open note every record of the window was present at a death, and none after it."""
    suspects = find_suspects(Position(5, str(Note(open=True))), 10)
    assert suspects
    assert [suspects.deaths_of(offset) for offset in (5, 6, 14, 15)] == [1, 1, 1, 0]


def test_the_record_that_kills_is_found_after_three_deaths() -> None:
    """A record that kills its worker whenever it is begun dies in the crowd once and alone twice; nobody else pays."""
    poison, position, done, dead = 7, Position(0), [], []
    worker_deaths = 0
    while not dead:
        suspects = find_suspects(position, 100)
        offset = position.offset
        if suspects is None:  # the first worker has all in hand at once
            position = Position(0, str(Note(open=True)))
            worker_deaths += 1
            continue
        while True:
            deaths = suspects.deaths_of(offset)
            if deaths >= MAX_DEATHS:
                dead.append(offset)
                break
            position = Position(offset, str(Note(open=True, deaths=deaths)))
            if offset == poison:
                worker_deaths += 1
                break
            done.append(offset)
            offset += 1
    assert dead == [poison]
    assert worker_deaths == MAX_DEATHS
    assert done == list(range(poison))


def test_a_suspect_that_changes_hands_in_peace_stays_one() -> None:
    """A closed note keeps the count of the record it stands at, without adding to it."""
    suspects = find_suspects(Position(5, str(Note(open=False, deaths=2))), 100)
    assert suspects
    assert [suspects.deaths_of(offset) for offset in (5, 6)] == [2, 0]
