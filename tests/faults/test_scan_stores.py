"""`unlensed scan` over an object store that refuses requests or is slow: a real S3 server behind a real proxy."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from s3fs import S3FileSystem

from scorer.archive.session import join_run
from scorer.archive.source.sources import Archive
from scorer.local_scorer import LocalScorer
from tests.scorer.archive.killed_scan import read_images
from tests.scorer.archive.list_plan import make_archive
from tests.scorer.archive.real_scan import check_published, scan
from tests.scorer.bad_store import BadStore, fail_between, hold_back, open_bad_store

SHARDS = ("--shard-images", 6)
COUNT = 30


@pytest.fixture
def store(moto: str, credentials: Callable[[str], None], tmp_path: Path, portrait: bytes) -> Iterator[BadStore]:
    """A bucket with `COUNT` photographs, three of them broken, behind a proxy that forwards everything at first."""
    credentials(moto)
    files = S3FileSystem(skip_instance_cache=True)
    files.mkdir("photographs")
    for path in make_archive(tmp_path / "photographs", portrait, COUNT).iterdir():
        files.pipe_file(f"photographs/{path.name}", path.read_bytes())
    with open_bad_store(moto) as proxy:
        credentials(proxy.address)
        yield proxy
    files.rm("photographs", recursive=True)


def test_refusals_and_slow_reads_lose_no_image(
    store: BadStore, root: Path, tmp_path: Path, local_scorer: LocalScorer
) -> None:
    """The scan retries while the store answers 503; a read that hangs is an error row until --retry-failed."""
    archive, settings = Archive(("s3://photographs",)), local_scorer.settings
    whole = join_run(
        tmp_path / "whole", archive, settings, shard_images=6, faces_digest=None, first=True, new_run=False
    )
    whole.open_scan(local_scorer).run(range(COUNT // 6))
    store.judge = fail_between(8, 27, "photographs")
    assert scan(root, "s3://photographs", tmp_path / "refused", *SHARDS).returncode == 3
    assert read_images(tmp_path / "refused") == read_images(tmp_path / "whole")
    store.judge = hold_back("00005.jpg", 5)
    arguments = (root, "s3://photographs", tmp_path / "slow", *SHARDS)
    assert scan(*arguments, "--item-timeout-s", 3).returncode == 3
    rows = read_images(tmp_path / "slow")
    assert rows["s3://photographs/00005.jpg"]["reason"] in {"timed_out", "unreadable"}
    store.judge = lambda _method, _path: None
    assert scan(*arguments, "--retry-failed").returncode == 3
    check_published(tmp_path / "slow")
    assert read_images(tmp_path / "slow") == read_images(tmp_path / "whole")
