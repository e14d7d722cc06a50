"""`unlensed scan` with a full disk: a real file system of 4 MB."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.scorer.archive.killed_scan import read_images
from tests.scorer.archive.list_plan import make_archive
from tests.scorer.archive.real_scan import check_published, scan

COUNT = 20
FREE_BYTES = 300_000  # for a third of the shards


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MB, if this process is permitted to mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", folder]
    try:
        mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("only root can mount a file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)  # noqa: S607 - as above


def test_a_scan_stops_on_a_full_disk_and_resumes(disk: Path, tmp_path: Path, portrait: bytes, root: Path) -> None:
    """Exit code 75 with a sentence, every published file whole; with room again the rows are those of any run."""
    images = make_archive(tmp_path / "photographs", portrait, COUNT)
    arguments = ("--shard-images", 1, "--max-failed", COUNT)
    assert scan(root, images, tmp_path / "whole", *arguments).returncode == 0
    facts = os.statvfs(disk)
    (disk / "ballast").write_bytes(bytes(facts.f_bavail * facts.f_frsize - FREE_BYTES))
    full = scan(root, images, disk / "run", *arguments)
    assert full.returncode == 75, full.stderr
    assert "No space left" in full.stderr
    assert "same command" in full.stderr
    assert 0 < check_published(disk / "run") < COUNT
    (disk / "ballast").unlink()
    assert scan(root, images, disk / "run", *arguments).returncode == 0
    assert check_published(disk / "run") == COUNT
    assert read_images(disk / "run") == read_images(tmp_path / "whole")
