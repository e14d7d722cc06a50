"""Which records are suspects after a crash."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scorer.stream.crash_notes import MAX_CRASHES, CrashNote, find_suspects, new_process

ME, A, B, C = (letter * 12 for letter in "0abc")
PROCESSES = st.sampled_from([A, B, C])


@given(st.booleans(), st.integers(0, 10**18), st.integers(0, 10**18), PROCESSES, st.lists(PROCESSES).map(dict.fromkeys))
def test_a_written_note_is_read_back(
    is_open: bool,  # noqa: FBT001 - drawn
    first: int,
    until: int,
    holder: str,
    dead: dict[str, None],
) -> None:
    """Parsing the text of a note returns the note."""
    note = CrashNote(is_open, first, until, holder, tuple(dead))
    assert CrashNote.parse(str(note)) == note


@pytest.mark.parametrize(
    "text", ["", "open", f"open first=5 until=9 holder={A}", f"OPEN first=5 until=9 holder={A} dead=", "{}"]
)
def test_a_note_of_another_program_is_ignored(text: str) -> None:
    """It makes no record a suspect."""
    assert find_suspects(text, ME) is None


def test_a_worker_that_left_normally_leaves_no_suspects() -> None:
    """A closed note, none at all, or an empty range makes no record a suspect."""
    assert find_suspects("", ME) is None
    assert find_suspects(str(CrashNote(open=False, first=5, until=9, holder=A)), ME) is None
    assert find_suspects(str(CrashNote(open=True, first=5, until=5, holder=A)), ME) is None


def test_all_records_in_flight_in_a_crash_are_suspects() -> None:
    """Each record of an open note's range has one crash, and no other."""
    suspects = find_suspects(str(CrashNote(open=True, first=5, until=15, holder=A)), ME)
    assert [suspects.crashed_with(offset) for offset in (4, 5, 6, 14, 15)] == [(), (A,), (A,), (A,), ()]


def test_a_process_that_comes_back_did_not_crash() -> None:
    """A paused worker's own open note is no crash, also for others."""
    assert find_suspects(str(CrashNote(open=True, first=5, until=9, holder=ME)), ME) is None
    again = find_suspects(str(CrashNote(open=True, first=5, until=9, holder=B, crashed=(ME, A))), ME)
    assert again.crashed_with(5) == (A, B)
    own = find_suspects(str(CrashNote(open=True, first=5, until=9, holder=B, crashed=(ME,))), B)
    assert own.crashed_with(5) == (ME,)


def test_the_crashing_record_is_found_after_three_crashes() -> None:
    """A record crashes once with others and twice alone, and affects no other."""
    poison = 7
    note = str(
        CrashNote(open=True, first=0, until=20, holder=new_process())
    )  # all records were in flight in the first worker
    done: list[int] = []
    worker_crashes = 1
    while True:
        process = new_process()
        suspects = find_suspects(note, process)
        for offset in range(suspects.first, suspects.until):
            crashed = suspects.crashed_with(offset)
            if len(crashed) >= MAX_CRASHES:
                assert (offset, worker_crashes, done) == (poison, MAX_CRASHES, list(range(poison)))
                return
            note = str(CrashNote(open=True, first=offset, until=suspects.until, holder=process, crashed=crashed))
            if offset == poison:
                worker_crashes += 1
                break
            done.append(offset)


def test_suspects_that_are_reassigned_stay_suspects() -> None:
    """A closed note keeps the counted crashes without a further one."""
    suspects = find_suspects(str(CrashNote(open=False, first=5, until=8, holder=C, crashed=(A, B))), ME)
    assert [suspects.crashed_with(offset) for offset in (5, 6, 8)] == [(A, B), (A,), ()]
