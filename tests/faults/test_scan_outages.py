"""A store that fails during a scan: exit code 75, no partial file, and the same rows once it answers again."""

from collections.abc import Callable
from pathlib import Path

import pytest
from s3fs import S3FileSystem

from tests.scorer.archive.killed_scan import read_images
from tests.scorer.archive.list_plan import make_archive
from tests.scorer.archive.real_scan import check_published, scan
from tests.scorer.archive.source.archives import make_tar
from tests.scorer.bad_store import fail_between, open_bad_store

COUNT, SHARD_IMAGES = 300, 20

pytestmark = pytest.mark.long


@pytest.mark.parametrize("source", ["s3://photographs", "s3://tars/*.tar"])
def test_a_scan_stops_at_an_outage_and_resumes_after_it(
    moto: str, credentials: Callable[[str], None], tmp_path: Path, portrait: bytes, root: Path, source: str
) -> None:
    """For single images and for tars: from some request on the store answers 503, and later it works again."""
    credentials(moto)
    files = S3FileSystem(skip_instance_cache=True)
    images = sorted(make_archive(tmp_path / "photographs", portrait, COUNT).iterdir())
    bucket = "tars" if "tar" in source else "photographs"
    files.mkdir(bucket)
    if bucket == "tars":
        for first in range(0, COUNT, SHARD_IMAGES):
            chosen = images[first : first + SHARD_IMAGES]
            files.pipe_file(f"tars/{first:05d}.tar", make_tar((path.name, path.read_bytes()) for path in chosen))
    else:
        for path in images:
            files.pipe_file(f"photographs/{path.name}", path.read_bytes())
    arguments = ("--shard-images", SHARD_IMAGES, "--max-failed", COUNT // 10)
    assert scan(root, source, tmp_path / "whole", *arguments).returncode == 0
    with open_bad_store(moto) as proxy:
        credentials(proxy.address)
        proxy.judge = fail_between(60 if bucket == "photographs" else 6, 1_000_000, bucket)
        stopped = scan(root, source, tmp_path / "run", *arguments, "--item-timeout-s", 1)
        assert stopped.returncode == 75, stopped.stderr
        assert "same command" in stopped.stderr
        assert "Traceback" not in stopped.stderr
        assert 0 < check_published(tmp_path / "run") < COUNT // SHARD_IMAGES
        assert not (tmp_path / "run" / "_SUCCESS").exists()
        proxy.judge = lambda _method, _path: None
        resumed = scan(root, source, tmp_path / "run", *arguments, "--retry-failed")
    assert resumed.returncode == 0, resumed.stderr
    check_published(tmp_path / "run")
    assert (tmp_path / "run" / "_SUCCESS").exists()
    assert read_images(tmp_path / "run") == read_images(tmp_path / "whole")
