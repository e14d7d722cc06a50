"""Bundles are copied from folders and object stores as they are."""

from collections.abc import Callable
from pathlib import Path

import pytest
import s3fs

from scorer.bundle.bundle import Bundle, read_bundle
from scorer.bundle.fetch import fetch_bundle
from scorer.errors import Exit, PayloadUnavailable, UsageError


def test_bucket_is_copied_whole(starter: Bundle, tmp_path: Path, moto: str, credentials: Callable[[str], None]) -> None:
    """A copy from an object store reads as the same bundle."""
    credentials(moto)
    store = s3fs.S3FileSystem(endpoint_url=moto, skip_instance_cache=True)
    store.mkdir("models")
    store.put(str(starter.folder) + "/", "models/starter/", recursive=True)
    fetch_bundle("s3://models/starter", tmp_path / "copy")
    assert read_bundle(tmp_path / "copy").model.digest == starter.model.digest


def test_a_copy_that_was_cut_off_is_finished(starter: Bundle, tmp_path: Path) -> None:
    """The same command completes an interrupted copy and leaves a complete one unchanged."""
    copy = tmp_path / "copy"
    fetch_bundle(str(starter.folder), copy)
    (copy / "bundle.json").unlink()
    (copy / "mixture.npz").write_bytes(b"half")
    fetch_bundle(str(starter.folder), copy)
    assert read_bundle(copy).model.digest == starter.model.digest
    before = {path: path.stat().st_mtime_ns for path in copy.rglob("*")}
    said = fetch_bundle(str(starter.folder), copy)
    assert before == {path: path.stat().st_mtime_ns for path in copy.rglob("*")}
    assert "files exist already" in said


@pytest.mark.parametrize("name", ["notes.txt", "bundle.json"])
def test_bundles_do_not_mix(starter: Bundle, tmp_path: Path, name: str) -> None:
    """A folder with any other content is refused, and its files are unchanged."""
    (tmp_path / name).write_text("mine")
    with pytest.raises(UsageError, match="contains something else"):
        fetch_bundle(str(starter.folder), tmp_path)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {name: "mine"}


def test_what_is_no_bundle_is_refused(tmp_path: Path) -> None:
    """An empty source, a missing source and an unknown scheme are refused."""
    for source in (str(tmp_path), str(tmp_path / "nowhere")):
        with pytest.raises(UsageError, match=r"no bundle\.json"):
            fetch_bundle(source, tmp_path / "new")
    with pytest.raises(UsageError, match="cannot be read here"):
        fetch_bundle("carrier-pigeon://loft/bundle", tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_store_that_does_not_answer_can_be_asked_again(
    tmp_path: Path, credentials: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The exit code means "retry later", and a restart of the container is the retry."""
    credentials("http://127.0.0.1:9")  # where nobody listens
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(PayloadUnavailable, match="the store failed"):
        fetch_bundle("s3://models/starter", tmp_path / "copy")
    assert PayloadUnavailable.exit_code is Exit.TRY_AGAIN
