"""What SOURCE arguments mean, and the error for each that cannot be scanned."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ingest.reasons import Reason, Unscorable
from scorer.archive.source.access import read_image_bytes
from scorer.archive.source.estimate import estimate_archive
from scorer.archive.source.sources import Archive, find_sources
from scorer.bundle.fetch import fetch_bundle
from scorer.errors import PayloadRefused, SettingsError, UsageError
from scorer.payloads.read import check_payloads
from scorer.settings import PayloadSettings
from tests.scorer.archive.source.archives import LIMIT, NOTHING, fill, list_items, make_tar, plan, read_all


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """A folder with images in folders, with tars, and with names that look like patterns."""
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
    """Folders, globs, braces, tars and files are found by relative path, absolute path and URI."""
    monkeypatch.chdir(archive)
    for prefix in ("", f"{archive}/", f"{archive.as_uri()}/"):
        stored, _ = plan(archive / "_plan", *(prefix + source for source in sources), shard_images=100)
        found = [data.decode() for data in read_all(stored).values()]
        assert sorted(found) == sorted(expected.split())
        if not any("{" in source for source in sources):
            assert found == expected.split() or prefix


@pytest.mark.parametrize(
    ("source", "columns", "words"),
    [
        ("missing", {}, "missing does not exist"),
        ("missing*", {}, "contains no image"),
        ("t-{00..02}.tar", {}, "t-02.tar does not exist"),
        ("t-{00.tar", {}, "does not exist|unbalanced braces"),
        ("empty", {}, "contains no image"),
        ("t.tar.gz", {}, "is compressed"),
        ("l.csv", {}, "is a manifest: name its column"),
        ("l.csv", {"uri_column": "url"}, "no column 'url'; it has 'uri'"),
        ("l.csv", {"uri_column": "uri", "faces_column": "faces"}, "no column 'faces'"),
        ("l.csv", {"bytes_column": "uri"}, "--uri-column"),
        ("l.csv", {"uri_column": "uri", "bytes_column": "image"}, "exclude each other"),
        ("in", {"uri_column": "uri"}, "no SOURCE is a manifest"),
        ("l.csv", {"faces_column": "faces"}, "--faces-column needs"),
        ("https://images.example/a.tar", {}, "cannot be a SOURCE"),
        ("http://images.example/?token=hunter2", {}, "cannot be a SOURCE"),
        ("simplecache::s3://bucket/a", {}, "cannot be a SOURCE"),
        ("s4://bucket", {}, "s4:// cannot be read here"),
    ],
)
def test_a_source_that_cannot_be_scanned_is_refused(
    archive: Path, monkeypatch: pytest.MonkeyPatch, source: str, columns: dict[str, Any], words: str
) -> None:
    """Each error is one line that names the source or column, without a URL's secrets."""
    monkeypatch.chdir(archive)
    with pytest.raises(UsageError, match=words) as error:
        plan(archive / "_plan", source, **columns)
    assert "hunter2" not in str(error.value)
    assert "\n" not in str(error.value)


def test_a_source_permits_reading_only_what_it_names(archive: Path) -> None:
    """A source may read its folder, the folder of its pattern or manifest, or its file."""
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


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """A folder with two images, and with other files that folders of photographs contain."""
    folder = tmp_path / "photographs"
    fill(
        folder,
        {
            "a.jpg": b"a",
            ".b.jpg": b"b",
            "sub/._a.jpg": b"",
            ".DS_Store": b"",
            "__MACOSX/c.jpg": b"",
            "@eaDir/a.jpg/THUMB.jpg": b"",
            "sub/Thumbs.db": b"",
            "notes.txt": b"",
            "more.tar": make_tar([]),
            "more.zip": b"",
        },
    )
    for name, target in (("self.jpg", "self.jpg"), ("nothing.jpg", "missing.jpg"), ("out.jpg", "/etc/hostname")):
        (folder / name).symlink_to(target)
    (folder / "sub" / "loop").symlink_to("..")
    (folder / "album.jpg").symlink_to("/etc")
    (folder / "circle").symlink_to("circle")
    os.mkfifo(folder / "pipe.jpg")
    return folder


@pytest.mark.parametrize("pattern", ["", "/**", "/*", "/**/*"])
def test_everything_left_out_is_counted(photographs: Path, pattern: str) -> None:
    """Each entry is an image, hidden ones too, an unreadable image, or counted by kind."""
    stored, facts = plan(photographs.parent / "_plan", f"{photographs}{pattern}", shard_images=100)
    access = stored.grant_access(NOTHING)
    found: dict[str, bytes | Reason] = {}
    for item in list_items(stored):
        try:
            found[Path(item.content_id).name] = read_image_bytes(item, access)
        except Unscorable as error:
            found[Path(item.content_id).name] = error.reason
    assert found == {
        "a.jpg": b"a",
        ".b.jpg": b"b",
        "self.jpg": Reason.UNREADABLE,
        "nothing.jpg": Reason.UNREADABLE,
        "out.jpg": Reason.FORBIDDEN_URI,
        "pipe.jpg": Reason.UNREADABLE,
    }
    expected = {"macos_sidecars": 3, "thumbnails": 2, "not_images": 2, "folder_links": 2, "containers": 2}
    if pattern not in {"", "/**"}:
        expected["containers"] = 1  # the glob names the tar
        assert facts.uncounted == 1
    assert facts.ignored == expected
    dry = estimate_archive(Archive((f"{photographs}{pattern}",)), NOTHING, 100, LIMIT)
    assert dry.facts == facts


@pytest.fixture
def as_nobody(tmp_path: Path) -> Path:
    """A folder that a user without privileges can read, with a writable folder for the plan."""
    if os.geteuid() == 0:
        for folder in (tmp_path, *tmp_path.parents):
            if folder.owner() == "root" and folder.is_relative_to(tempfile.gettempdir()):
                folder.chmod(folder.stat().st_mode | 0o711)
    (tmp_path / "_plan").mkdir()
    (tmp_path / "_plan").chmod(0o777)
    return tmp_path


@contextmanager
def drop_privileges() -> Iterator[None]:
    """Drop the superuser's privileges, with which everything can be read."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.parametrize("source", ["in", "in/*", "in/**/*.jpg", "in/*/*.jpg"])
def test_a_folder_without_permission_is_an_error_row(as_nobody: Path, source: str) -> None:
    """A folder that cannot be listed is an unreadable image; all others are planned."""
    fill(as_nobody, {"in/a/1.jpg": b"1", "in/shut/2.jpg": b"2", "in/z/3.jpg": b"3"})
    (as_nobody / "in" / "shut").chmod(0)
    with drop_privileges():
        stored, _ = plan(as_nobody / "_plan", as_nobody / source)
        access = stored.grant_access(NOTHING)
        first, shut, last = list_items(stored)
        assert [read_image_bytes(item, access) for item in (first, last)] == [b"1", b"3"]
        with pytest.raises(Unscorable, match=r"in/shut cannot be read: Permission denied") as error:
            read_image_bytes(shut, access)
    (as_nobody / "in" / "shut").chmod(0o755)
    assert error.value.reason is Reason.UNREADABLE
    assert shut.content_id.endswith("/in/shut")


@pytest.mark.parametrize("source", ["shut", "shut/*.jpg", "shut/inner", "shut/a.tar", "shut/l.csv"])
def test_a_source_without_permission_is_refused(as_nobody: Path, source: str) -> None:
    """The error is not one that advises a retry."""
    fill(as_nobody, {"shut/1.jpg": b"1", "shut/inner/1.jpg": b"1", "shut/a.tar": b"", "shut/l.csv": b"uri\n1.jpg\n"})
    (as_nobody / "shut").chmod(0)
    with drop_privileges(), pytest.raises(PayloadRefused, match="Permission denied"):
        plan(as_nobody / "_plan", as_nobody / source, uri_column="uri" if source.endswith("csv") else None)
    (as_nobody / "shut").chmod(0o755)


def test_folders_of_any_depth_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with a too long path is an error row; those above it are planned."""
    fill(tmp_path, {"in/1.jpg": b"1"})
    monkeypatch.chdir(tmp_path / "in")
    for _ in range(2100):
        Path("d").mkdir()
        os.chdir("d")
    Path("2.jpg").write_bytes(b"2")
    monkeypatch.chdir(tmp_path)
    stored, facts = plan(tmp_path / "_plan", tmp_path / "in")
    images = list_items(stored)
    assert facts.images == 2
    assert [image.problem == "" for image in images] == [True, False]
    assert "File name too long" in images[1].problem
    subprocess.run(["rm", "-r", tmp_path / "in"], check=True)  # noqa: S607 - shutil fails at this depth


@pytest.mark.parametrize("name", ["loop.tar", "nothing.tar", "pipe.tar", "pipe.csv", "loop.csv", "1.jpg/below"])
def test_a_file_that_cannot_be_opened_is_refused(tmp_path: Path, name: str) -> None:
    """Links to themselves or nothing, and a pipe, are refused at once."""
    fill(tmp_path, {"1.jpg": b"1", "good.tar": make_tar([("2.jpg", b"2")])})
    for loop in ("loop.tar", "loop.csv"):
        (tmp_path / loop).symlink_to(loop)
    (tmp_path / "nothing.tar").symlink_to("missing.tar")
    os.mkfifo(tmp_path / "pipe.tar")
    os.mkfifo(tmp_path / "pipe.csv")
    with pytest.raises(UsageError, match=name):
        plan(tmp_path / "_plan", tmp_path / name, uri_column="uri" if name.endswith("csv") else None)
    stored, _ = plan(tmp_path / "_plan", tmp_path / "*.tar")
    found = {Path(item.uri).name: bool(item.problem) for item in list_items(stored)}
    assert found == {"good.tar": False, "loop.tar": True, "nothing.tar": True, "pipe.tar": True}


@pytest.mark.parametrize(
    ("scheme", "words"),
    [
        ("gs", "needs the package gcsfs, which is not installed: pip install gcsfs"),
        ("abfs", "needs the package adlfs, which is not installed: pip install adlfs"),
        ("s3", r"needs the package s3fs, which is not installed: .*\[s3\]"),
    ],
)
def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scheme: str, words: str) -> None:
    """The error states what to install: an extra of this project if one contains the package."""
    module = sys.modules["fsspec.registry"]  # the package's attribute of that name is a mapping
    known = {name: kind for name, kind in module.registry.items() if name != scheme}
    monkeypatch.setattr(module, "registry", known)
    for package in ("s3fs", "gcsfs", "adlfs"):
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(SettingsError, match=words):
        plan(tmp_path / "_plan", f"{scheme}://bucket/a")
    with pytest.raises(SettingsError, match=words):
        check_payloads(PayloadSettings(schemes=(scheme,)))
    with pytest.raises(SettingsError, match=words):
        fetch_bundle(f"{scheme}://bucket/a", tmp_path / "bundle")


@pytest.mark.parametrize("kind", ["webdataset", "parquet", "files"])
def test_img2dataset_output_is_recognised(tmp_path: Path, kind: str) -> None:
    """Each format of img2dataset is recognised, without failed downloads."""
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
    stored, facts = plan(tmp_path.parent / f"{kind}_plan", tmp_path, shard_images=100)
    assert set(read_all(stored).values()) == expected
    assert (facts.images, facts.uncounted) == (6, 0)
    assert facts.imageless_rows == (2 if kind == "parquet" else 0)
    assert {item.source for item in list_items(stored)} == {
        "webdataset": {"00000.tar", "00001.tar"},
        "parquet": {"00000.parquet", "00001.parquet"},
        "files": {"00000", "00001"},
    }[kind]
    fill(tmp_path, {"own.jpg": b"own", "sub/own.jpg": b"sub", "notes.txt": b""})
    stored, facts = plan(tmp_path.parent / f"{kind}_plan", tmp_path, shard_images=100)
    assert set(read_all(stored).values()) == {*expected, b"own", b"sub"}
    assert facts.ignored.pop("not_images") == (3 if kind == "files" else 1)
    (tmp_path / "00001_stats.json").unlink()
    with pytest.raises(UsageError, match="00001_stats"):
        plan(tmp_path / "_plan", tmp_path)


def test_invalid_statistics_are_refused(tmp_path: Path) -> None:
    """A `_stats.json` without successes or tar, or with two image columns, is refused."""
    fill(tmp_path, {"00000_stats.json": b"[]", "00000.tar": make_tar([])})
    with pytest.raises(UsageError, match="not a statistics file of img2dataset"):
        plan(tmp_path / "_plan", tmp_path)
    (tmp_path / "00000.tar").unlink()
    with pytest.raises(UsageError, match="has no images"):
        plan(tmp_path / "_plan", tmp_path)
    pq.write_table(pa.table({"jpg": [b""], "png": [b""]}), tmp_path / "00000.parquet")
    with pytest.raises(UsageError, match="no column"):
        plan(tmp_path / "_plan", tmp_path)
