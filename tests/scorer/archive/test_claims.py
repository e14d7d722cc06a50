"""Who has a shard in hand, and what is known of it after deaths."""

import multiprocessing
import os
import signal
from pathlib import Path

import pytest

from scorer.archive.claims import MAX_DEATHS, SUSPECT_FROM_STARTS, Claim, find_suspects


def take(folder: Path) -> Claim:
    """Take the claim on shard 7."""
    claim = Claim.take(folder, 7)
    assert claim
    return claim


def die_with(folder: Path, position: int | None) -> None:
    """Take shard 7 in another process, note an image and be killed."""

    def work() -> None:
        claim = take(folder)
        if position is not None:
            claim.note(position)
        os.kill(os.getpid(), signal.SIGKILL)

    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    process.join()


def test_a_shard_is_in_one_process_hands(tmp_path: Path) -> None:
    """While one has a shard nobody else gets it, whether it was begun or committed before."""
    claim = take(tmp_path)
    assert Claim.take(tmp_path, 7) is None
    claim.finish()
    again = take(tmp_path)
    again.release()
    assert not list(tmp_path.iterdir())


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
def test_who_ends_in_good_order_leaves_no_suspicion(tmp_path: Path) -> None:
    """Only deaths count: released starts are taken back, and a commit forgets all."""
    for _ in range(5):
        take(tmp_path).release()
    assert take(tmp_path).starts == 1
    die_with(tmp_path / "other", None)
    claim = take(tmp_path / "other")
    assert claim.starts == 2
    claim.release()
    assert take(tmp_path / "other").starts == 2


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
def test_the_image_that_kills_is_found(tmp_path: Path) -> None:
    """Two deaths make a shard suspect; an image noted at three more is passed over, and no other one."""
    for _ in range(SUSPECT_FROM_STARTS - 1):
        assert not find_suspects(tmp_path)
        die_with(tmp_path, None)
    assert find_suspects(tmp_path) == {7}
    for death in range(MAX_DEATHS):
        claim = take(tmp_path)
        assert claim.suspect
        assert claim.deaths.get(4, 0) == death
        assert not claim.kills(4)
        claim.release()
        die_with(tmp_path, 4)
    claim = take(tmp_path)
    assert [claim.kills(position) for position in (3, 4, 5)] == [False, True, False]
    claim.finish()
    assert not find_suspects(tmp_path)
