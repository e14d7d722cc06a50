"""Claims on shards, and what they record of crashes."""

import multiprocessing
import os
import signal
from pathlib import Path

import pytest

from scorer.archive.claims import MAX_CRASHES, SUSPECT_FROM_STARTS, Claim, find_suspects


def acquire(folder: Path) -> Claim:
    """Acquire the claim on shard 7."""
    claim = Claim.acquire(folder, 7)
    assert claim
    return claim


def crash_with(folder: Path, position: int | None) -> None:
    """Claim shard 7 in another process that notes an image and is killed."""

    def work() -> None:
        claim = acquire(folder)
        if position is not None:
            claim.note(position)
        os.kill(os.getpid(), signal.SIGKILL)

    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    process.join()


def test_a_claim_is_exclusive(tmp_path: Path) -> None:
    """A claimed shard cannot be claimed again until the claim ends."""
    claim = acquire(tmp_path)
    assert Claim.acquire(tmp_path, 7) is None
    claim.finish()
    acquire(tmp_path).release()
    assert not list(tmp_path.iterdir())


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
def test_only_crashes_are_counted(tmp_path: Path) -> None:
    """A released claim takes its start back; a crash does not."""
    for _ in range(5):
        acquire(tmp_path).release()
    assert acquire(tmp_path).starts == 1
    crash_with(tmp_path / "other", None)
    claim = acquire(tmp_path / "other")
    assert claim.starts == 2
    claim.release()
    assert acquire(tmp_path / "other").starts == 2


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
def test_the_image_that_kills_is_found(tmp_path: Path) -> None:
    """Two crashes make a suspect shard; only an image noted at three more is skipped."""
    for _ in range(SUSPECT_FROM_STARTS - 1):
        assert not find_suspects(tmp_path)
        crash_with(tmp_path, None)
    assert find_suspects(tmp_path) == {7}
    for crash in range(MAX_CRASHES):
        claim = acquire(tmp_path)
        assert claim.suspect
        assert claim.crashes.get(4, 0) == crash
        assert not claim.must_skip(4)
        claim.release()
        crash_with(tmp_path, 4)
    claim = acquire(tmp_path)
    assert [claim.must_skip(position) for position in (3, 4, 5)] == [False, True, False]
    claim.finish()
    assert not find_suspects(tmp_path)
