"""Bundles are copied from folders and object stores as they are."""

from collections.abc import Callable
from pathlib import Path

import pytest
import s3fs

from scorer.bundle import Bundle, read_bundle
from scorer.bundle_fetch import fetch
from scorer.paths import UsageError


def test_folder_is_copied_whole(starter: Bundle, tmp_path: Path) -> None:
    """A copy reads as the same bundle."""
    fetch(str(starter.folder), tmp_path / "copy")
    assert read_bundle(tmp_path / "copy").model.digest == starter.model.digest


def test_bucket_is_copied_whole(starter: Bundle, tmp_path: Path, moto: str, credentials: Callable[[str], None]) -> None:
    """So does one from an object store."""
    credentials(moto)
    store = s3fs.S3FileSystem(endpoint_url=moto, skip_instance_cache=True)
    store.mkdir("models")
    store.put(str(starter.folder) + "/", "models/starter/", recursive=True)
    fetch("s3://models/starter", tmp_path / "copy")
    assert read_bundle(tmp_path / "copy").model.digest == starter.model.digest


def test_bundles_do_not_mix(starter: Bundle, tmp_path: Path) -> None:
    """A folder that holds anything is refused, and so is a source that holds nothing."""
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "file").touch()
    with pytest.raises(UsageError, match="not empty"):
        fetch(str(starter.folder), tmp_path / "old")
    (tmp_path / "nothing").mkdir()
    with pytest.raises(UsageError, match="no file"):
        fetch(str(tmp_path / "nothing"), tmp_path / "new")
