"""Who is suspected after a worker died."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scorer.stream.caution import MAX_DEATHS, Note, find_suspects


@given(st.booleans(), st.integers(0, 10**18), st.integers(0, 10**18), st.integers(0, 1000))
def test_a_note_survives_being_written(
    is_open: bool,  # noqa: FBT001 - drawn
    first: int,
    until: int,
    deaths: int,
) -> None:
    """What is written down is read back."""
    assert Note.parse(str(Note(is_open, first, until, deaths))) == Note(is_open, first, until, deaths)


@pytest.mark.parametrize("text", ["", "open", "open first=5 until=9 deaths=-1", "OPEN first=5 until=9 deaths=1", "{}"])
def test_a_strangers_note_says_nothing(text: str) -> None:
    """A note that another program wrote raises no suspicion."""
    assert find_suspects(text) is None


def test_a_worker_that_left_in_good_order_leaves_no_suspects() -> None:
    """A closed note, none at all, or one of a worker with empty hands lets everything through."""
    assert find_suspects("") is None
    assert find_suspects(str(Note(open=False, first=5, until=9))) is None
    assert find_suspects(str(Note(open=True, first=5, until=5))) is None


def test_everything_in_a_dead_workers_hands_is_suspect() -> None:
    """After an open note every record in hand was present at a death, and none before or after."""
    suspects = find_suspects(str(Note(open=True, first=5, until=15)))
    assert suspects
    assert [suspects.deaths_of(offset) for offset in (4, 5, 6, 14, 15)] == [0, 1, 1, 1, 0]


def test_the_record_that_kills_is_found_after_three_deaths() -> None:
    """A record that kills its worker whenever it is begun dies in the crowd once and alone twice; nobody else pays."""
    poison = 7
    note = str(Note(open=True, first=0, until=20))  # the first worker had all in hand at once
    done: list[int] = []
    worker_deaths = 1
    while True:
        suspects = find_suspects(note)
        assert suspects
        for offset in range(suspects.first, suspects.until):
            deaths = suspects.deaths_of(offset)
            if deaths >= MAX_DEATHS:
                assert (offset, worker_deaths, done) == (poison, MAX_DEATHS, list(range(poison)))
                return
            note = str(Note(open=True, first=offset, until=suspects.until, deaths=deaths))
            if offset == poison:
                worker_deaths += 1
                break
            done.append(offset)


def test_suspects_that_change_hands_in_peace_stay_suspects() -> None:
    """A closed note keeps what was counted, without adding to it."""
    suspects = find_suspects(str(Note(open=False, first=5, until=8, deaths=2)))
    assert suspects
    assert [suspects.deaths_of(offset) for offset in (5, 6, 8)] == [2, 1, 0]
