"""What SOURCE arguments mean, and the one sentence for each that means nothing."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from scorer.archive.source.sources import Archive, find_sources
from scorer.paths import UsageError
from tests.scorer.archive.source.archives import contents, fill, items_of, make_tar, plan


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """A folder with images in folders, tars, and names that look like patterns."""
    fill(
        tmp_path,
        {
            "in/a/1.jpg": b"1",
            "in/a/deep/2.PNG": b"2",
            "in/b/3.webp": b"3",
            "in/b/readme.txt": b"",
            "in/[x]/{y}.jpg": b"4",
            "in/\udcff.jpg": b"5",
            "no-suffix": b"6",
            "empty/readme.txt": b"",
            "t-00.tar": make_tar([("0.jpg", b"t0")]),
            "t-01.tar": make_tar([("1.jpg", b"t1")]),
            "t.tar.gz": b"",
            "l.csv": b"uri\nin/a/1.jpg\n",
        },
    )
    (tmp_path / "in" / "b" / "loop").symlink_to("..")
    (tmp_path / "in" / "b" / "link.jpg").symlink_to("../a/1.jpg")
    return tmp_path


@pytest.mark.parametrize(
    ("sources", "expected"),
    [
        (["in"], "4 1 2 3 1 5"),
        (["in/"], "4 1 2 3 1 5"),
        (["in/a"], "1 2"),
        (["in/*"], "4 1 2 3 1 5"),
        (["in/**"], "4 1 2 3 1 5"),
        (["in/**/*.jpg"], "4 1 1 5"),
        (["in/[x]"], "4"),
        (["in/[x]/{y}.jpg"], "4"),
        (["in/[ab]/?.*"], "1 3"),
        (["in/{b,a}/*.{jpg,webp}"], "1 3 1"),
        (["no-suffix"], "6"),
        (["t-*.tar"], "t0 t1"),
        (["t-{00..01}.tar"], "t0 t1"),
        (["t-{01,00}.tar"], "t1 t0"),
        (["in/a", "t-00.tar", "in/a/1.jpg"], "t0 1 2"),
    ],
)
def test_sources_name_images(archive: Path, monkeypatch: pytest.MonkeyPatch, sources: list[str], expected: str) -> None:
    """Folders, globs, braces, tars and single files, by relative path, absolute path and URI."""
    monkeypatch.chdir(archive)
    for prefix in ("", f"{archive}/", f"{archive.as_uri()}/"):
        stored, _ = plan(archive / "_plan", *(prefix + source for source in sources), shard_images=100)
        found = [data.decode() for data in contents(stored).values()]
        assert sorted(found) == sorted(expected.split())
        if not any("{" in source for source in sources):
            assert found == expected.split() or prefix


@pytest.mark.parametrize(
    ("source", "columns", "words"),
    [
        ("missing", {}, "missing does not exist"),
        ("missing*", {}, "holds no image"),
        ("t-{00..02}.tar", {}, "t-02.tar does not exist"),
        ("t-{00.tar", {}, "does not exist|do not close"),
        ("empty", {}, "holds no image"),
        ("t.tar.gz", {}, "is compressed"),
        ("l.csv", {}, "is a manifest: name its column"),
        ("l.csv", {"uri_column": "url"}, "no column 'url'; it has 'uri'"),
        ("l.csv", {"uri_column": "uri", "faces_column": "faces"}, "no column 'faces'"),
        ("l.csv", {"bytes_column": "uri"}, "--uri-column"),
        ("l.csv", {"uri_column": "uri", "bytes_column": "image"}, "exclude each other"),
        ("in", {"uri_column": "uri"}, "no SOURCE is a manifest"),
        ("l.csv", {"faces_column": "faces"}, "--faces-column belongs"),
        ("https://images.example/a.tar", {}, "is no source"),
        ("http://images.example/?token=hunter2", {}, "is no source"),
        ("simplecache::s3://bucket/a", {}, "is no source"),
        ("s4://bucket", {}, "s4:// cannot be read here"),
    ],
)
def test_what_cannot_be_scanned_is_told_in_one_sentence(
    archive: Path, monkeypatch: pytest.MonkeyPatch, source: str, columns: dict[str, Any], words: str
) -> None:
    """Each mistake names what it is about, and no secret of a URL."""
    monkeypatch.chdir(archive)
    with pytest.raises(UsageError, match=words) as error:
        plan(archive / "_plan", source, **columns)
    assert "hunter2" not in str(error.value)
    assert "\n" not in str(error.value)


def test_nothing_is_asked_of_a_store_that_is_not_named(archive: Path) -> None:
    """What may be read because of a source is that source: a folder, a pattern's folder, a manifest's, a file."""
    named = [
        source.named and source.named.removeprefix(archive.as_uri())
        for source in find_sources(
            Archive(
                (
                    f"{archive}/in",
                    f"{archive}/in/a/*",
                    f"{archive}/no-suffix",
                    f"{archive}/l.csv",
                    f"{archive}/t-00.tar",
                )
            )
        )
    ]
    assert named == ["/in/", "/in/a/", "/no-suffix", "/", None]


@pytest.mark.parametrize("kind", ["webdataset", "parquet", "files"])
def test_img2dataset_output_is_recognised(tmp_path: Path, kind: str) -> None:
    """Each format of img2dataset is read as what it is; failed downloads are no images; counts are known."""
    expected = set()
    for shard in range(2):
        stem = f"{shard:05d}"
        images = {f"{stem}000{n}": f"{shard} {n}".encode() for n in range(3)}
        expected |= set(images.values())
        stats = json.dumps({"count": 4, "successes": 3, "status_dict": {"HTTP Error 404": 1}})
        fill(tmp_path, {f"{stem}_stats.json": stats.encode()})
        keys, data = [*images, f"{stem}0003"], [*images.values(), None]
        if kind == "webdataset":
            members = [
                (f"{key}{end}", text) for key in images for end, text in ((".jpg", images[key]), (".json", b"{}"))
            ]
            fill(tmp_path, {f"{stem}.tar": make_tar(members)})
        if kind == "files":
            fill(tmp_path / stem, {f"{key}.jpg": value for key, value in images.items()})
        columns = {"key": keys} | ({"jpg": data} if kind == "parquet" else {})
        pq.write_table(pa.table(columns), tmp_path / f"{stem}.parquet", row_group_size=2)
    stored, facts = plan(tmp_path / "_plan", tmp_path, shard_images=100)
    assert set(contents(stored).values()) == expected
    assert (facts.images, facts.uncounted) == (6, 0)
    assert facts.imageless_rows == (2 if kind == "parquet" else 0)
    assert {item.source for item in items_of(stored)} == {
        "webdataset": {"00000.tar", "00001.tar"},
        "parquet": {"00000.parquet", "00001.parquet"},
        "files": {"00000", "00001"},
    }[kind]
    (tmp_path / "00001_stats.json").unlink()
    with pytest.raises(UsageError, match="00001_stats"):
        plan(tmp_path / "_plan", tmp_path)


def test_statistics_that_are_none_are_refused(tmp_path: Path) -> None:
    """A `_stats.json` without successes, without its tar, or beside two columns of images ends the planning."""
    fill(tmp_path, {"00000_stats.json": b"[]", "00000.tar": make_tar([])})
    with pytest.raises(UsageError, match="no statistics of img2dataset"):
        plan(tmp_path / "_plan", tmp_path)
    (tmp_path / "00000.tar").unlink()
    with pytest.raises(UsageError, match="stands alone"):
        plan(tmp_path / "_plan", tmp_path)
    pq.write_table(pa.table({"jpg": [b""], "png": [b""]}), tmp_path / "00000.parquet")
    with pytest.raises(UsageError, match="no column"):
        plan(tmp_path / "_plan", tmp_path)
