"""Untrusted tars: streamed, never extracted, and with every stated size checked."""

import gzip
import io
import tarfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scorer.archive.items import Item
from scorer.archive.source.tars import read_members
from scorer.errors import SourceDamaged
from scorer.messages import MAX_ID_CHARACTERS
from scorer.payloads.stores import StoreFile
from tests.scorer.archive.source.archives import LIMIT, make_tar

IMAGES = [("a/1.jpg", b"one"), ("a/1.json", b"{}"), ("a/1.txt", b"text"), ("a/2.PNG", b"two" * 300), ("b/3.webp", b"")]


def read(path: Path, data: bytes, left_out: Counter[str] | None = None) -> tuple[list[Item], SourceDamaged | None]:
    """Return the images of a tar, and the error that ended the reading."""
    path.write_bytes(data)
    items: list[Item] = []
    with StoreFile(path.as_uri()) as file:
        try:
            items.extend(read_members(file, "tar", LIMIT, left_out))
        except SourceDamaged as error:
            assert "tar" in str(error)  # noqa: PT017 - the error is returned, too
            return items, error
    return items, None


def add(archive: tarfile.TarFile, name: str, kind: bytes, data: bytes = b"", **more: object) -> None:
    """Add a member of any type."""
    member = tarfile.TarInfo(name)
    member.type, member.size = kind, len(data)
    for key, value in more.items():
        setattr(member, key, value)
    archive.addfile(member, io.BytesIO(data))


@pytest.mark.parametrize("kind", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_images_are_recognised_by_their_names(tmp_path: Path, kind: int) -> None:
    """In each format images have their order, bytes and spans; others are skipped."""
    data = make_tar(IMAGES, kind)
    items, error = read(tmp_path / "a.tar", data)
    assert error is None
    assert [(item.content_id, item.data) for item in items] == [
        ("tar/a/1.jpg", b"one"),
        ("tar/a/2.PNG", b"two" * 300),
        ("tar/b/3.webp", b""),
    ]
    for item in items:
        assert data[item.span.offset : item.span.offset + item.span.size] == item.data


NAMES = st.text(st.characters(exclude_characters="\0"), min_size=1, max_size=40) | st.sampled_from(
    ["../../x", "/etc/passwd", "a/../../..", "~root", "%2e%2e", "a#2", "a", "con", "a\\b", "\udcff\udc80"]
)


@settings(max_examples=60)
@given(st.lists(st.tuples(NAMES, st.binary(max_size=30)), max_size=12))
def test_names_are_opaque_and_all_images_are_read(
    tmp_path_factory: pytest.TempPathFactory, members: list[tuple[str, bytes]]
) -> None:
    """With any names each image is yielded once, in order, with a unique id."""
    members = [(f"{name.encode(errors='replace').decode()}.jpg", data) for name, data in members]
    folder = tmp_path_factory.mktemp("tar")
    items, error = read(folder / "a.tar", make_tar(members))
    assert error is None
    assert [item.data for item in items] == [data for _, data in members]
    assert len({item.content_id for item in items}) == len(items)
    assert [each.name for each in folder.iterdir()] == ["a.tar"]


def test_names_that_are_not_text_are_escaped(tmp_path: Path) -> None:
    """Bytes that are no UTF-8 are escaped; a too long name is shortened and stays unique."""
    long = "x" * 3 * MAX_ID_CHARACTERS
    members = [(f"{long}1.jpg", b"1"), (f"{long}2.jpg", b"2"), ("\udcff.jpg", b"3")]
    items, error = read(tmp_path / "a.tar", make_tar(members, tarfile.GNU_FORMAT))
    assert error is None
    assert items[2].content_id == "tar/\\udcff.jpg"
    assert [item.content_id.encode() for item in items]
    assert all(len(item.content_id) <= MAX_ID_CHARACTERS for item in items)
    assert items[0].content_id != items[1].content_id


def test_members_that_are_not_regular_files_are_counted(tmp_path: Path) -> None:
    """Links, devices, pipes and sidecars are left out; a sparse file cannot be read."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:
        add(archive, "folder.jpg", tarfile.DIRTYPE)
        add(archive, "soft.jpg", tarfile.SYMTYPE, linkname="/etc/passwd")
        add(archive, "hard.jpg", tarfile.LNKTYPE, linkname="good.jpg")
        add(archive, "disk.jpg", tarfile.BLKTYPE, devmajor=8)
        add(archive, "zero.jpg", tarfile.CHRTYPE, devmajor=1, devminor=5)
        add(archive, "pipe.jpg", tarfile.FIFOTYPE)
        sparse = {"GNU.sparse.map": "0,1", "GNU.sparse.size": str(1 << 40), "GNU.sparse.name": "sparse.jpg"}
        add(archive, "sparse.jpg", tarfile.REGTYPE, b"x", pax_headers=sparse)
        for name in ("._good.jpg", "x/__MACOSX/a.jpg", "@eaDir/good.jpg/thumb.jpg", "good.json", "inner.tar"):
            add(archive, name, tarfile.REGTYPE, b"x")
        add(archive, "./good.jpg", tarfile.REGTYPE, b"good")
    left_out: Counter[str] = Counter()
    items, error = read(tmp_path / "a.tar", file.getvalue(), left_out)
    assert error is None
    assert [(item.content_id, item.data) for item in items] == [("tar/sparse.jpg", None), ("tar/./good.jpg", b"good")]
    assert "--sparse" in items[0].problem
    assert left_out == {
        "tar_links": 2,
        "special_files": 3,
        "macos_sidecars": 2,
        "thumbnails": 1,
        "not_images": 1,
        "containers": 1,
    }


@pytest.mark.parametrize("between", [b"", bytes(512), bytes(1 << 21)], ids=["none", "a block", "two mebibytes"])
def test_concatenated_tars_are_read_to_the_end(tmp_path: Path, between: bytes) -> None:
    """Tars that `cat` joined with their end marks, one of them empty, give the images of all."""
    parts = [make_tar([("1.jpg", b"1")]), make_tar([]), make_tar([("2.jpg", b"2"), ("1.jpg", b"3")])]
    items, error = read(tmp_path / "a.tar", between.join(parts))
    assert error is None
    assert [(item.content_id, item.data) for item in items] == [
        ("tar/1.jpg", b"1"),
        ("tar/2.jpg", b"2"),
        ("tar/1.jpg#2", b"3"),
    ]
    for item in items:
        assert item.span is not None


@pytest.mark.parametrize("behind", [b"\n", b"garbage" * 200, gzip.compress(b"x")], ids=["line", "garbage", "gzip"])
def test_other_data_after_the_end_mark_is_reported(tmp_path: Path, behind: bytes) -> None:
    """The images are yielded, and then an error that states where the data begins."""
    data = make_tar([("1.jpg", b"1")])
    items, error = read(tmp_path / "a.tar", data + behind)
    assert [item.data for item in items] == [b"1"]
    assert f"after {len(data)} bytes (data after the end mark that is not a tar)" in str(error)


def test_a_truncated_second_tar_is_reported(tmp_path: Path) -> None:
    """The first tar's and the second's complete images come before the error."""
    second = make_tar([("2.jpg", b"2"), ("3.jpg", bytes(2000))])
    items, error = read(tmp_path / "a.tar", make_tar([("1.jpg", b"1")]) + second[:2048])
    assert [item.data for item in items] == [b"1", b"2"]
    assert error is not None


def test_a_large_member_has_no_bytes(tmp_path: Path) -> None:
    """A member above the limit is yielded with its size only, and the next member is read."""
    items, error = read(tmp_path / "a.tar", make_tar([("a.jpg", bytes(LIMIT + 1)), ("b.jpg", bytes(LIMIT))]))
    assert error is None
    assert [item.data and len(item.data) for item in items] == [None, LIMIT]
    assert items[0].span is not None
    assert items[0].span.size == LIMIT + 1


@pytest.mark.parametrize(
    ("kept", "whole"), [(1, 0), (512, 0), (1111, 0), (1112, 1), (1536, 1), (2047, 1), (2048, 1), (3072, 2), (6144, 4)]
)
def test_a_truncated_tar_is_reported(tmp_path: Path, kept: int, whole: int) -> None:
    """Wherever a tar is truncated, its complete images are yielded, and then an error."""
    items, error = read(tmp_path / "a.tar", make_tar([(f"{n}.jpg", b"x" * 600) for n in range(4)])[:kept])
    assert error is not None
    assert [item.content_id for item in items] == [f"tar/{n}.jpg" for n in range(whole)]


def test_an_invalid_header_is_not_the_end(tmp_path: Path) -> None:
    """An invalid header ends the tar with an error, although tarfile treats it as the end."""
    data = bytearray(make_tar([("a.jpg", b"a"), ("b.jpg", b"b"), ("c.jpg", b"c")]))
    data[1024:1536] = b"\xff" * 512
    items, error = read(tmp_path / "a.tar", bytes(data))
    assert [item.content_id for item in items] == ["tar/a.jpg"]
    assert error is not None


@pytest.mark.parametrize("data", [b"", b"x", gzip.compress(make_tar(IMAGES)), b"\x89PNG" * 1000])
def test_other_files_are_not_tars(tmp_path: Path, data: bytes) -> None:
    """An empty file, a compressed tar and an image are refused."""
    items, error = read(tmp_path / "a.tar", data)
    assert not items
    assert error is not None


def craft(kind: bytes, size: int, name: str = "a.jpg") -> bytes:
    """Return a header with a size that no tool writes."""
    member = tarfile.TarInfo(name)
    member.type = kind
    block = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    block[124:136] = tarfile.itn(size, 12, tarfile.GNU_FORMAT)
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


@pytest.mark.parametrize("size", [-512, -(1 << 40), -1, 1 << 40, 1 << 60])
@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME])
def test_false_sizes_end_the_tar(tmp_path: Path, kind: bytes, size: int) -> None:
    """A negative or too large size causes neither a loop nor a large allocation."""
    data = make_tar([("first.jpg", b"x")])[:1024] + craft(kind, size) + bytes(2048)
    items, error = read(tmp_path / "a.tar", data)
    assert [item.content_id for item in items if item.data is not None] == ["tar/first.jpg"]
    assert error is not None


@settings(max_examples=150)
@given(st.data())
def test_damage_raises_no_other_error(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """With any bytes overwritten, a tar gives images within the limit or `SourceDamaged`."""
    sparse = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "9"}
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:
        add(archive, "x" * 200 + ".jpg", tarfile.REGTYPE, b"long")
        add(archive, "sparse.jpg", tarfile.REGTYPE, b"1\n0\n4\n".ljust(516, b"\0"), pax_headers=sparse)
        add(archive, "last.jpg", tarfile.REGTYPE, b"last")
    broken = bytearray(file.getvalue()[: data.draw(st.sampled_from([9 << 10, 4 << 10]))])
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, 5000))
        patch = data.draw(st.binary(min_size=1, max_size=20) | st.sampled_from([b"9" * 11, b"\xff" * 12, b"S", b"g"]))
        broken[place : place + len(patch)] = patch
    items, _ = read(tmp_path_factory.mktemp("tar") / "a.tar", bytes(broken))
    assert all(item.data is None or len(item.data) <= LIMIT for item in items)
