"""Archives in object stores: a real S3 server, and stores that fail."""

import json
from collections.abc import Callable
from pathlib import Path

import boto3
import fsspec
import fsspec.config
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from s3fs import S3FileSystem

from ingest.reasons import Reason, Unscorable
from scorer.archive.items import ByteSpan, Item
from scorer.archive.source.access import read_image_bytes, read_span
from scorer.bundle.fetch import fetch_bundle
from scorer.errors import PayloadRefused, SourceChanged, SourceDamaged, UsageError
from scorer.payloads.stores import BLOCK_BYTES
from scorer.settings import PayloadSettings
from tests.scorer.archive.source.archives import LIMIT, NOTHING, list_items, make_tar, plan, read_all
from tests.scorer.bad_store import open_bad_store
from tests.scorer.s3 import SECRET


@pytest.fixture
def bucket(moto: str, credentials: Callable[[str], None], tmp_path: Path) -> S3FileSystem:
    """Buckets `archive` with images, tars and manifests, and `other`; tests only add objects."""
    credentials(moto)
    store = S3FileSystem(skip_instance_cache=True, use_listings_cache=False)
    if store.exists("archive"):
        return store
    for name in ("archive", "other"):
        store.mkdir(name)
    table = pa.table({"image": [b"p0", None, b"p2"]})
    pq.write_table(table, tmp_path / "p.parquet", row_group_size=2)
    files = {
        "in/a/1 ü.jpg": b"1",
        "in/a/b/2?x=%41.png": b"2",
        "in/c.webp": b"3",
        "in/notes.txt": b"",
        "in-not/4.jpg": b"4",
        "t-0.tar": make_tar([("../../0.jpg", b"t0"), ("large.jpg", bytes(LIMIT + 1))]),
        "t-1.tar": make_tar([(f"{n}.jpg", bytes([n]) * 900) for n in range(20)]),
        "m/l.csv": b"uri\n../in/c.webp\ns3://archive/in-not/4.jpg\ns3://other/o.jpg\n../../other/o.jpg\n",
        "m/p.parquet": (tmp_path / "p.parquet").read_bytes(),
    }
    for path, data in files.items():
        store.pipe_file(f"archive/{path}", data)
    store.pipe_file("other/o.jpg", b"other")
    return store


@pytest.mark.parametrize(
    ("sources", "expected"),
    [
        (["s3://archive/in"], "1 2 3"),
        (["s3://archive/in/"], "1 2 3"),
        (["s3://archive"], "1 2 3 4"),
        (["s3://archive/in*/*"], "4 1 2 3"),
        (["s3://archive/**/*.webp"], "3"),
        (["s3://archive/in/a/1 ü.jpg", "s3://archive/in/{c,c}.webp"], "1 3"),
        (["S3://archive/in/a/b/2?x=%41.png"], "2"),
    ],
)
@pytest.mark.usefixtures("bucket")
def test_prefixes_and_globs_are_listed_and_read(tmp_path: Path, sources: list[str], expected: str) -> None:
    """What the command line names may be read, with any characters in its keys."""
    stored, facts = plan(tmp_path / "_plan", *sources, shard_images=2)
    found = read_all(stored)
    assert [data.decode() for data in found.values()] == expected.split()
    assert all(name.startswith("s3://archive/") for name in found)
    assert facts.images == len(found)


def test_tars_are_streamed_and_members_are_read_again(bucket: S3FileSystem, tmp_path: Path) -> None:
    """Globs and braces name tars; a member is read again by its span, a large one is refused."""
    bucket.copy("archive/t-0.tar", "archive/own/t-0.tar")
    bucket.copy("archive/t-1.tar", "archive/own/t-1.tar")
    for source in ("s3://archive/own/*.tar", "s3://archive/own/t-{0..1}.tar"):
        stored, _ = plan(tmp_path / "_plan", source)
        items = list_items(stored)
        assert [item.content_id for item in items[:2]] == [
            "s3://archive/own/t-0.tar/../../0.jpg",
            "s3://archive/own/t-0.tar/large.jpg",
        ]
        assert [item.data for item in items[2:]] == [bytes([n]) * 900 for n in range(20)]
        for item in items:
            if item.data is not None and item.span is not None:
                assert read_span(item.uri, item.span) == item.data
        with pytest.raises(Unscorable) as error:
            read_image_bytes(items[1], stored.grant_access(NOTHING))
        assert error.value.reason is Reason.TOO_MANY_BYTES
    bucket.pipe_file("archive/own/t-0.tar", make_tar([("../../0.jpg", b"t1"), ("large.jpg", bytes(LIMIT + 1))]))
    with pytest.raises(SourceChanged, match=r"s3://archive/own/t-0\.tar has changed"):
        list_items(stored)
    bucket.rm("archive/own/t-0.tar")
    with pytest.raises(SourceChanged, match="was removed after the run was planned"):
        list_items(stored)
    with pytest.raises(SourceChanged):
        read_span("s3://archive/own/t-0.tar", ByteSpan(512, 2))
    with pytest.raises(SourceChanged, match="ends before"):
        read_span("s3://archive/t-1.tar", ByteSpan(0, 1 << 30))


def test_a_tar_that_is_replaced_while_it_is_read_is_reported(bucket: S3FileSystem, tmp_path: Path) -> None:
    """No image of an object that replaces a tar is yielded as one of the old."""
    large = [(f"{n}.jpg", bytes([n % 100]) * 900) for n in range(3 * BLOCK_BYTES // 1536)]
    bucket.pipe_file("archive/large.tar", make_tar(large))
    stored, _ = plan(tmp_path / "_plan", "s3://archive/large.tar")
    items = stored.read_items(stored.read_shard(0))
    next(items)
    bucket.pipe_file("archive/large.tar", make_tar([(name, b"x" * 900) for name, _ in large]))
    seen: list[Item] = []
    with pytest.raises(SourceChanged):
        seen.extend(items)
    assert all(item.data != b"x" * 900 for item in seen)


@pytest.mark.usefixtures("bucket")
def test_manifests_may_read_their_bucket(tmp_path: Path) -> None:
    """A manifest may read its own bucket; the settings must list another one."""
    stored, facts = plan(tmp_path / "_plan", "s3://archive/m/l.csv", uri_column="uri")
    items = list_items(stored)
    assert (facts.images, facts.duplicates) == (3, 1)  # both spellings of other/o.jpg are one
    access = stored.grant_access(NOTHING)
    assert [read_image_bytes(item, access) for item in items[:2]] == [b"3", b"4"]
    with pytest.raises(Unscorable) as error:
        read_image_bytes(items[2], access)
    assert error.value.reason is Reason.FORBIDDEN_URI
    assert read_image_bytes(items[2], stored.grant_access(PayloadSettings(schemes=("s3",)))) == b"other"


@pytest.mark.usefixtures("bucket")
def test_rows_and_img2dataset_are_read_from_a_store(bucket: S3FileSystem, tmp_path: Path) -> None:
    """Row groups and img2dataset's folders are read as on a disk."""
    stored, _ = plan(tmp_path / "_plan", "s3://archive/m/p.parquet", bytes_column="image")
    assert list(read_all(stored).values()) == [b"p0", b"p2"]
    bucket.pipe_file("archive/i/00000_stats.json", json.dumps({"successes": 2}).encode())
    bucket.copy("archive/t-0.tar", "archive/i/00000.tar")
    _, facts = plan(tmp_path / "_plan", "s3://archive/i")
    assert (facts.shards, facts.images, facts.uncounted) == (1, 2, 0)


@pytest.mark.usefixtures("bucket")
@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("s3://archive/missing", "does not exist"),
        ("s3://missing-bucket/in", "does not exist"),
        ("s3://archive/missing*", "contains no image"),
        ("s3://archive/t-{0..2}.tar", "t-2.tar does not exist"),
    ],
)
def test_missing_sources_are_reported(tmp_path: Path, source: str, words: str) -> None:
    """A missing prefix, bucket, glob or tar ends the planning."""
    with pytest.raises(UsageError, match=words):
        plan(tmp_path / "_plan", source)


@pytest.mark.parametrize("source", ["s3://slashes", "s3://slashes/**", "s3://slashes/*"])
def test_keys_with_empty_parts_are_listed_and_read(
    moto: str, credentials: Callable[[str], None], tmp_path: Path, source: str
) -> None:
    """Keys with any slashes and dots are images; placeholders are not."""
    credentials(moto)
    client = boto3.client("s3")
    keys = ["/lead.jpg", "//two.jpg", "a//b.jpg", "a///c.jpg", "a//d/e.jpg", "a/f.jpg", "g.jpg", "h.jpg/", "a/../i.jpg"]
    if "slashes" not in [each["Name"] for each in client.list_buckets()["Buckets"]]:
        client.create_bucket(Bucket="slashes")
        for key in keys:
            client.put_object(Bucket="slashes", Key=key, Body=key.encode())
        client.put_object(Bucket="slashes", Key="a/", Body=b"")
        client.put_object(Bucket="slashes", Key="a//._b.jpg", Body=b"")
        client.put_object(Bucket="slashes", Key="a//notes.txt", Body=b"")
    stored, facts = plan(tmp_path / "_plan", source, shard_images=100)
    assert read_all(stored) == {f"s3://slashes/{key}": key.encode() for key in keys}
    assert (facts.images, facts.left_out) == (len(keys), {"macos_sidecars": 1, "not_images": 1})


def test_missing_credentials_are_named(
    moto: str, credentials: Callable[[str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every reader names the variables to set; a public bucket needs none."""
    credentials(moto)
    client = boto3.client("s3")
    client.create_bucket(Bucket="public", ACL="public-read")
    client.put_object(Bucket="public", Key="a.jpg", Body=b"a")
    stored, _ = plan(tmp_path / "_plan", "s3://public/a.jpg")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    S3FileSystem.clear_instance_cache()
    for failing in (
        lambda: plan(tmp_path / "again", "s3://public/"),
        lambda: plan(tmp_path / "again", "s3://public/*.jpg"),
        lambda: plan(tmp_path / "again", "s3://public/a.jpg"),
        lambda: read_image_bytes(list_items(stored)[0], stored.grant_access(PayloadSettings())),
        lambda: fetch_bundle("s3://public", tmp_path / "bundle"),
    ):
        with pytest.raises(PayloadRefused, match="AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"):
            failing()
    monkeypatch.setitem(fsspec.config.conf, "s3", {"anon": "true"})  # as FSSPEC_S3_ANON=true does
    assert list(read_all(plan(tmp_path / "again", "s3://public/")[0]).values()) == [b"a"]
    S3FileSystem.clear_instance_cache()


def test_a_store_that_refuses_every_request_is_reported(
    bucket: S3FileSystem, credentials: Callable[[str], None], moto: str, tmp_path: Path
) -> None:
    """Planning and reading raise an error of the store, and no image is called unreadable."""
    stored, _ = plan(tmp_path / "_plan", "s3://archive/t-0.tar", "s3://archive/in")
    item = list_items(stored)[-1]
    with open_bad_store(moto) as store:
        store.judge = lambda _method, _path: 403
        S3FileSystem.clear_instance_cache()
        credentials(store.address)
        for failing in (
            lambda: plan(tmp_path / "again", "s3://archive/in"),
            lambda: plan(tmp_path / "again", "s3://archive/t-0.tar"),
            lambda: list_items(stored),
            lambda: read_image_bytes(item, stored.grant_access(PayloadSettings())),
            lambda: read_span("s3://archive/t-0.tar", ByteSpan(512, 2)),
        ):
            with pytest.raises(PayloadRefused) as error:
                failing()
            assert SECRET not in str(error.value)
    S3FileSystem.clear_instance_cache()
    credentials(moto)
    assert bucket.exists("archive/t-0.tar")
    assert read_all(plan(tmp_path / "again", "s3://archive/in")[0])


def test_every_fsspec_store_is_read(tmp_path: Path) -> None:
    """Folders, tars and manifests are read from a store without an asynchronous client."""
    store = fsspec.filesystem("memory")
    store.pipe_file("/archive/in/a.jpg", b"a")
    store.pipe_file("/archive/t.tar", make_tar([("b.jpg", b"b")]))
    store.pipe_file("/archive/l.jsonl", b'{"uri": "in/a.jpg"}\n{"uri": "memory://archive/in/missing.jpg"}\n')
    sources = ("memory://archive/in", "memory://archive/*.tar", "memory://archive/l.jsonl")
    stored, facts = plan(tmp_path / "_plan", *sources, uri_column="uri")
    assert facts.duplicates == 1
    items = list_items(stored)
    access = stored.grant_access(NOTHING)
    assert [read_image_bytes(item, access) for item in items[:2]] == [b"b", b"a"]
    with pytest.raises(Unscorable) as error:
        read_image_bytes(items[2], access)
    assert error.value.reason is Reason.UNREADABLE
    store.pipe_file("/archive/t.tar", make_tar([("b.jpg", b"b")])[:1024])
    with pytest.raises(SourceDamaged):
        list_items(plan(tmp_path / "_plan", "memory://archive/t.tar")[0])
    store.rm("/archive", recursive=True)
