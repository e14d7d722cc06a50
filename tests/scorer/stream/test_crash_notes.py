"""Who is suspected after a worker died."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scorer.stream.crash_notes import MAX_CRASHES, CrashNote, find_suspects, new_process

ME, A, B, C = (letter * 12 for letter in "0abc")
PROCESSES = st.sampled_from([A, B, C])


@given(st.booleans(), st.integers(0, 10**18), st.integers(0, 10**18), PROCESSES, st.lists(PROCESSES).map(dict.fromkeys))
def test_a_note_survives_being_written(
    is_open: bool,  # noqa: FBT001 - drawn
    first: int,
    until: int,
    holder: str,
    dead: dict[str, None],
) -> None:
    """What is written down is read back."""
    note = CrashNote(is_open, first, until, holder, tuple(dead))
    assert CrashNote.parse(str(note)) == note


@pytest.mark.parametrize(
    "text", ["", "open", f"open first=5 until=9 holder={A}", f"OPEN first=5 until=9 holder={A} dead=", "{}"]
)
def test_a_strangers_note_says_nothing(text: str) -> None:
    """A note that another program wrote raises no suspicion."""
    assert find_suspects(text, ME) is None


def test_a_worker_that_left_in_good_order_leaves_no_suspects() -> None:
    """A closed note, none at all, or one of a worker with empty hands lets everything through."""
    assert find_suspects("", ME) is None
    assert find_suspects(str(CrashNote(open=False, first=5, until=9, holder=A)), ME) is None
    assert find_suspects(str(CrashNote(open=True, first=5, until=5, holder=A)), ME) is None


def test_everything_in_a_dead_workers_hands_is_suspect() -> None:
    """After an open note every record in hand was present at a death, and none before or after."""
    suspects = find_suspects(str(CrashNote(open=True, first=5, until=15, holder=A)), ME)
    assert suspects
    assert [suspects.crashed_with(offset) for offset in (4, 5, 6, 14, 15)] == [(), (A,), (A,), (A,), ()]


def test_a_process_that_comes_back_did_not_die() -> None:
    """A paused worker's own open note is no death, nor is it for others once it has its partitions again."""
    assert find_suspects(str(CrashNote(open=True, first=5, until=9, holder=ME)), ME) is None
    again = find_suspects(str(CrashNote(open=True, first=5, until=9, holder=B, crashed=(ME, A))), ME)
    assert again
    assert again.crashed_with(5) == (A, B)
    assert find_suspects(str(CrashNote(open=True, first=5, until=9, holder=B, crashed=(ME,))), B).crashed_with(5) == (
        ME,
    )  # type: ignore[union-attr]


def test_the_record_that_kills_is_found_after_three_deaths() -> None:
    """A record that kills its worker whenever it is begun dies in the crowd once and alone twice; nobody else pays."""
    poison = 7
    note = str(
        CrashNote(open=True, first=0, until=20, holder=new_process())
    )  # the first worker had all in hand at once
    done: list[int] = []
    worker_deaths = 1
    while True:
        process = new_process()
        suspects = find_suspects(note, process)
        assert suspects
        for offset in range(suspects.first, suspects.until):
            dead = suspects.crashed_with(offset)
            if len(dead) >= MAX_CRASHES:
                assert (offset, worker_deaths, done) == (poison, MAX_CRASHES, list(range(poison)))
                return
            note = str(CrashNote(open=True, first=offset, until=suspects.until, holder=process, crashed=dead))
            if offset == poison:
                worker_deaths += 1
                break
            done.append(offset)


def test_suspects_that_change_hands_in_peace_stay_suspects() -> None:
    """A closed note keeps what was counted, without adding to it."""
    suspects = find_suspects(str(CrashNote(open=False, first=5, until=8, holder=C, crashed=(A, B))), ME)
    assert suspects
    assert [suspects.crashed_with(offset) for offset in (5, 6, 8)] == [(A, B), (A,), ()]
