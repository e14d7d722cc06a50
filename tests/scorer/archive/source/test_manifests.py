"""Manifests: all formats give the same images, and access is checked."""

import csv
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ingest.reasons import Reason, Unscorable
from scorer.archive.source.access import read_image_bytes
from scorer.errors import SourceDamaged, UsageError
from scorer.settings import PayloadSettings
from tests.scorer.archive.source.archives import fill, list_items, plan, read_all

FACES = [{"face_id": "left", "box": [1.0, 2.0, 30.0, 40.0]}]
Rows = list[tuple[str | None, Any]]


def write_csv(path: Path, rows: Rows) -> None:
    """Write rows with their faces as JSON text, which contains commas and quotes."""
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["n", "uri", "faces"])
        writer.writerows((0, uri, "" if faces is None else json.dumps(faces, indent=1)) for uri, faces in rows)


def write_jsonl(path: Path, rows: Rows) -> None:
    """Write rows with their faces as lists, and an empty line."""
    path.write_text("".join(json.dumps({"uri": uri, "faces": faces}) + "\n" for uri, faces in rows) + "\n")


def write_parquet(path: Path, rows: Rows) -> None:
    """Write rows with their faces as lists of structs."""
    face = pa.struct([("face_id", pa.string()), ("box", pa.list_(pa.float64()))])
    uris, faces = zip(*rows, strict=True)
    pq.write_table(pa.table({"uri": pa.array(uris), "faces": pa.array(faces, pa.list_(face))}), path, row_group_size=2)


WRITERS: dict[str, Callable[[Path, Rows], None]] = {".csv": write_csv, ".jsonl": write_jsonl, ".parquet": write_parquet}


@pytest.mark.parametrize("suffix", WRITERS)
def test_all_formats_give_the_same_images(tmp_path: Path, suffix: str) -> None:
    """URIs may be relative, absolute or odd; a row has faces, none, or null."""
    fill(tmp_path, {"in/a b.jpg": b"1", "in/ü%41?.jpg": b"2", "in/c": b"3"})
    rows: Rows = [
        ("in/a b.jpg", FACES),
        ("in/ü%41?.jpg", []),
        (str(tmp_path / "in" / "c"), None),
        (None, None),
        ((tmp_path / "in" / "c").as_uri(), None),
    ]
    WRITERS[suffix](tmp_path / f"m{suffix}", rows)
    stored, facts = plan(tmp_path / "_plan", tmp_path / f"m{suffix}", uri_column="uri", faces_column="faces")
    assert list(read_all(stored).values()) == [b"1", b"2", b"3"]
    items = list_items(stored)
    assert [item.content_id for item in items[::2]] == [(tmp_path / "in" / name).as_uri() for name in ("a b.jpg", "c")]
    assert [item.faces and item.faces[0].model_dump(mode="json") for item in items] == [FACES[0], (), None]
    assert {item.source for item in items} == {f"m{suffix}"}
    assert (facts.images, facts.unsized_images, facts.duplicates, facts.imageless_rows) == (3, 3, 1, 1)


@pytest.mark.parametrize("suffix", WRITERS)
def test_a_manifest_with_invalid_syntax_is_damaged(tmp_path: Path, suffix: str) -> None:
    """Invalid syntax ends the planning with an error that names the manifest."""
    WRITERS[suffix](tmp_path / f"m{suffix}", [(f"{n}.jpg", FACES) for n in range(50)])
    whole = (tmp_path / f"m{suffix}").read_bytes()
    (tmp_path / f"m{suffix}").write_bytes(whole[: len(whole) // 2] + b'\n"x"y{\n' + whole[len(whole) // 2 :])
    with pytest.raises(SourceDamaged, match=f"m{suffix}"):
        plan(tmp_path / "_plan", tmp_path / f"m{suffix}", uri_column="uri", faces_column="faces")


@pytest.mark.parametrize(
    "faces",
    [
        "[",
        '[{"face_id": "a"}]',
        '[{"face_id": "a", "box": [0, 0, 0, 1]}]',
        '[{"face_id": "a", "box": [0, 0, 1, 1]}, {"face_id": "a", "box": [0, 0, 1, 1]}]',
        json.dumps([{"face_id": str(n), "box": [0, 0, 1, 1]} for n in range(65)]),
    ],
)
def test_invalid_faces_are_reported_by_the_plan(tmp_path: Path, faces: str) -> None:
    """Invalid JSON, boxes, ids and numbers of faces: the error names the row."""
    table = pa.table({"uri": ["a.jpg", "b.jpg"], "image": [b"a", b"b"], "faces": [None, faces]})
    pq.write_table(table, tmp_path / "m.parquet")
    for columns in ({"uri_column": "uri"}, {"bytes_column": "image"}):
        with pytest.raises(UsageError, match=r"m\.parquet, row 1"):
            plan(tmp_path / "_plan", tmp_path / "m.parquet", faces_column="faces", **columns)


def test_rows_with_bytes_are_images(tmp_path: Path) -> None:
    """Bytes are in a column or a struct's field; ids contain the row; nulls are no images."""
    images = [b"0", None, b"2", b"", b"4"]
    table = pa.table(
        {
            "image": pa.array([{"bytes": data, "path": "x"} for data in images]),
            "large": pa.array(images, pa.large_binary()),
            "faces": [json.dumps(FACES), None, "[]", None, None],
        }
    )
    path = tmp_path / "m.parquet"
    pq.write_table(table, path, row_group_size=2)
    for column in ("image.bytes", "large"):
        stored, facts = plan(tmp_path / "_plan", path, shard_images=3, bytes_column=column, faces_column="faces")
        assert read_all(stored) == {f"{path.as_uri()}#{n}": data for n, data in enumerate(images) if data is not None}
        assert [item.faces and item.faces[0].face_id for item in list_items(stored)] == ["left", (), None, None]
        shards = [stored.read_shard(index) for index in range(stored.shard_count)]
        assert [(shard.row_group, shard.images) for shard in shards] == [(0, 3), (2, 1)]
        assert (facts.images, facts.imageless_rows) == (4, 1)


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"bytes_column": "uri"}, "contains string in 'uri', not bytes"),
        ({"uri_column": "image"}, "contains binary in 'image', not text"),
        ({"uri_column": "number"}, "contains int64"),
        ({"bytes_column": "image.bytes"}, "no column 'image.bytes'"),
        ({"bytes_column": "image", "faces_column": "boxes"}, "no column 'boxes'"),
    ],
)
def test_columns_of_other_types_are_refused(tmp_path: Path, columns: dict[str, str], words: str) -> None:
    """The error names the column and its type."""
    pq.write_table(pa.table({"uri": ["a"], "image": [b"a"], "number": [1]}), tmp_path / "m.parquet")
    with pytest.raises(UsageError, match=words):
        plan(tmp_path / "_plan", tmp_path / "m.parquet", **columns)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
@pytest.mark.parametrize(
    ("encoding", "words"),
    [
        ("utf-16", "it is UTF-16, not UTF-8"),
        ("utf-16-le", "it is UTF-16LE, not UTF-8"),
        ("utf-16-be", "it is UTF-16BE, not UTF-8"),
        ("utf-32", "it is UTF-32, not UTF-8"),
        ("latin-1", "line 302 contains the byte 0xE9, which is not UTF-8"),
    ],
)
def test_a_manifest_that_is_not_utf8_is_refused(tmp_path: Path, suffix: str, encoding: str, words: str) -> None:
    """The error states the encoding or the first invalid line, and what to do."""
    line = '{{"uri": "{}"}}\n' if suffix == ".jsonl" else "{}\n"
    text = "uri\n" if suffix == ".csv" else line.format("first.jpg")
    text += "".join(line.format(f"{n}.jpg") for n in range(300)) + line.format("\u00e9.jpg")
    (tmp_path / f"m{suffix}").write_bytes(text.encode(encoding))
    with pytest.raises(UsageError, match=words) as error:
        plan(tmp_path / "_plan", tmp_path / f"m{suffix}", uri_column="uri")
    assert f"m{suffix} cannot be read" in str(error.value)
    assert "iconv" in str(error.value)


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("m.csv", b"uri\r\n", "names no image: it has no row"),
        ("m.csv", b"", "is empty"),
        ("m.csv", b"\xef\xbb\xbf\r\n", "is empty"),
        ("m.csv", b"n,uri\n1,\n2,\n", "no row has an image .2 rows without an image"),
        ("m.jsonl", b"\n\n", "is empty"),
        ("m.jsonl", b'{"uri": null}\n{"uri": ""}\n', "no row has an image .2 rows"),
        ("m.jsonl", b'\n{"url": "a.jpg"}\n', "no column 'uri'"),
    ],
)
def test_a_manifest_without_an_image_is_refused(tmp_path: Path, name: str, data: bytes, words: str) -> None:
    """A header alone, an empty file and rows without images are refused, also beside another source."""
    fill(tmp_path, {name: data, "in/1.jpg": b"1"})
    for sources in ([tmp_path / name], [tmp_path / "in", tmp_path / name]):
        with pytest.raises(UsageError, match=words):
            plan(tmp_path / "_plan", *sources, uri_column="uri")


@pytest.mark.parametrize("name", ["m.csv", "m.jsonl"])
def test_windows_text_files_are_read(tmp_path: Path, name: str) -> None:
    """A byte-order mark and CRLF line ends do not change the images."""
    text = "uri\n1.jpg\n2.jpg\n" if name == "m.csv" else '{"uri": "1.jpg"}\n{"uri": "2.jpg"}\n'
    fill(tmp_path, {name: b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode(), "1.jpg": b"1", "2.jpg": b"2"})
    assert list(read_all(plan(tmp_path / "_plan", tmp_path / name, uri_column="uri")[0]).values()) == [b"1", b"2"]


TEXTS = [
    pa.string(),
    pa.large_string(),
    pa.string_view(),
    pa.dictionary(pa.int32(), pa.string()),
    pa.dictionary(pa.int8(), pa.large_string()),
    pa.json_(),
]
BYTES = [
    pa.binary(),
    pa.large_binary(),
    pa.binary_view(),
    pa.binary(3),
    pa.dictionary(pa.int32(), pa.binary()),
    pa.dictionary(pa.int32(), pa.large_binary()),
    pa.opaque(pa.binary(), "photo", "nobody"),
]


def write_column(path: Path, values: list[Any], kind: pa.DataType, name: str) -> None:
    """Write one column; `a.b.c` is a field in nested structs."""
    if isinstance(kind, pa.BaseExtensionType):
        column = pa.ExtensionArray.from_storage(kind, pa.array(values, kind.storage_type))
    else:
        column = pa.array(values, kind)
    *outer, last = name.split(".")
    for part in [last, *reversed(outer)][: len(outer)]:
        column = pa.StructArray.from_arrays([column], [part])
    pq.write_table(pa.table({name.partition(".")[0]: column}), path)


@pytest.mark.parametrize("name", ["image", "image.path", "image.inner.path"])
@pytest.mark.parametrize("kind", TEXTS, ids=str)
def test_text_of_every_type_is_read(tmp_path: Path, kind: pa.DataType, name: str) -> None:
    """Text is read from every Arrow type that stores it, at any depth of structs."""
    fill(tmp_path, {"1.jpg": b"1"})
    write_column(tmp_path / "m.parquet", ["1.jpg", None], kind, name)
    stored, facts = plan(tmp_path / "_plan", tmp_path / "m.parquet", uri_column=name)
    assert list(read_all(stored).values()) == [b"1"]
    assert facts.left_out == {"rows_without_image": 1}


@pytest.mark.parametrize("name", ["image", "image.bytes", "image.inner.bytes"])
@pytest.mark.parametrize("kind", BYTES, ids=str)
def test_bytes_of_every_type_are_read(tmp_path: Path, kind: pa.DataType, name: str) -> None:
    """Bytes are read from every Arrow type that stores them, at any depth of structs."""
    write_column(tmp_path / "m.parquet", [b"one", None], kind, name)
    stored, facts = plan(tmp_path / "_plan", tmp_path / "m.parquet", bytes_column=name)
    assert list(read_all(stored).values()) == [b"one"]
    assert (facts.images, facts.left_out) == (1, {"rows_without_image": 1})


@pytest.mark.parametrize("columns", [{"uri_column": "image"}, {"bytes_column": "image"}])
@pytest.mark.parametrize(
    ("table", "words"),
    [
        (pa.table({"image": pa.nulls(2)}), "no row has an image"),
        (pa.table({"image": pa.nulls(0)}), "it has no row"),
        (pa.table({"image": pa.array([[b"a"]])}), "contains list<"),
    ],
    ids=["nulls", "empty", "lists"],
)
def test_parquet_without_an_image_is_refused(
    tmp_path: Path, columns: dict[str, str], table: pa.Table, words: str
) -> None:
    """Only nulls, no row, and a column of lists are refused."""
    pq.write_table(table, tmp_path / "m.parquet")
    with pytest.raises(UsageError, match=words):
        plan(tmp_path / "_plan", tmp_path / "m.parquet", **columns)


def test_rows_without_bytes_are_counted_when_they_are_read(tmp_path: Path) -> None:
    """If a file does not state the number of nulls, the scan counts them instead of the plan."""
    pq.write_table(pa.table({"image": [b"a", None, None]}), tmp_path / "m.parquet", write_statistics=False)
    stored, facts = plan(tmp_path / "_plan", tmp_path / "m.parquet", bytes_column="image")
    assert (facts.uncounted, facts.left_out) == (1, {})
    left_out: Counter[str] = Counter()
    assert [item.data for item in stored.read_items(stored.read_shard(0), left_out)] == [b"a"]
    assert left_out == {"rows_without_image": 2}


def read_uris(tmp_path: Path, payloads: PayloadSettings, *uris: str) -> list[Reason | bytes]:
    """Return the bytes or the reason of refusal for each URI in a manifest."""
    fill(tmp_path / "in", {"good.jpg": b"good"})
    write_jsonl(tmp_path / "in" / "m.jsonl", [(uri, None) for uri in ("good.jpg", *uris)])
    stored, _ = plan(tmp_path / "_plan", tmp_path / "in" / "m.jsonl", uri_column="uri", payloads=payloads)
    access = stored.grant_access(payloads)
    found: list[Reason | bytes] = []
    for item in list_items(stored)[1:]:
        try:
            found.append(read_image_bytes(item, access))
        except Unscorable as error:
            found.append(error.reason)
    return found


def test_a_manifest_may_read_only_its_folder(tmp_path: Path) -> None:
    """Paths, links, hosts and schemes outside the folder are forbidden unless listed."""
    fill(tmp_path, {"secret/s.jpg": b"secret", "in-not/n.jpg": b"not"})
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "out").symlink_to("../secret/s.jpg")
    files = [
        "../secret/s.jpg",
        "out",
        str(tmp_path / "secret" / "s.jpg"),
        f"{tmp_path.as_uri()}/in/%2e%2e/secret/s.jpg",
    ]
    others = [
        "../in-not/n.jpg",
        "https://images.example/a.jpg",
        "http://127.0.0.1/a.jpg",
        "s3://bucket/a.jpg",
        "memory://a.jpg",
        "local:///etc/hostname",
        "simplecache::file:///etc/hostname",
    ]
    assert set(read_uris(tmp_path, PayloadSettings(), *files, *others)) == {Reason.FORBIDDEN_URI}
    listed = PayloadSettings(schemes=("file",), file_roots=(tmp_path / "secret",))
    found = read_uris(tmp_path, listed, *files, *others)
    assert found == [b"secret"] * len(files) + [Reason.FORBIDDEN_URI] * len(others)


def test_a_manifest_of_forbidden_images_is_refused_at_once(tmp_path: Path) -> None:
    """A plan whose first image is forbidden is refused, instead of millions of error rows."""
    for uri in ("https://images.example/a.jpg?token=hunter2", "s3://bucket/a.jpg", "/etc/hostname", "../a.jpg"):
        write_csv(tmp_path / "m.csv", [(None, None), (uri, None)])
        with pytest.raises(UsageError, match="the settings do not permit") as error:
            plan(tmp_path / "_plan", tmp_path / "m.csv", uri_column="uri")
        assert "hunter2" not in str(error.value)
    listed = PayloadSettings(https_hosts=("images.example",))
    write_csv(tmp_path / "m.csv", [("https://images.example/a.jpg", None)])
    assert plan(tmp_path / "_plan", tmp_path / "m.csv", uri_column="uri", payloads=listed)[1].images == 1
