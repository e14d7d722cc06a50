"""Manifests: every format says the same, relative URIs begin beside them, and strangers' URIs meet the guard."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ingest.reasons import Reason, Unscorable
from scorer.archive.items import SourceDamaged
from scorer.archive.source.access import read_image_bytes
from scorer.paths import UsageError
from scorer.payloads.settings import PayloadSettings
from tests.scorer.archive.source.archives import contents, fill, items_of, plan

FACES = [{"face_id": "left", "box": [1.0, 2.0, 30.0, 40.0]}]
Rows = list[tuple[str | None, Any]]


def write_csv(path: Path, rows: Rows) -> None:
    """Write rows with their faces as JSON text, which has commas and quotes."""
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


WRITERS: dict[str, Callable[[Path, Rows], None]] = {
    ".csv": write_csv,
    ".jsonl": write_jsonl,
    ".parquet": write_parquet,
}


@pytest.mark.parametrize("suffix", WRITERS)
def test_every_format_says_the_same(tmp_path: Path, suffix: str) -> None:
    """URIs relative, absolute and with odd characters; faces, no faces and nobody's word on faces."""
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
    assert list(contents(stored).values()) == [b"1", b"2", b"3"]
    items = items_of(stored)
    assert [item.faces and item.faces[0].model_dump(mode="json") for item in items] == [FACES[0], (), None]
    assert {item.source for item in items} == {f"m{suffix}"}
    assert (facts.images, facts.unsized_images, facts.duplicates, facts.imageless_rows) == (3, 3, 1, 1)


@pytest.mark.parametrize("suffix", WRITERS)
def test_a_manifest_that_breaks_off_is_damaged(tmp_path: Path, suffix: str) -> None:
    """What the format does not know ends the planning with a sentence."""
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
def test_faces_that_nobody_can_read_are_told_when_planning(tmp_path: Path, faces: str) -> None:
    """No JSON, no box, no area, a name twice, too many: the row is named, for URIs and for bytes."""
    table = pa.table({"uri": ["a.jpg", "b.jpg"], "image": [b"a", b"b"], "faces": [None, faces]})
    pq.write_table(table, tmp_path / "m.parquet")
    for columns in ({"uri_column": "uri"}, {"bytes_column": "image"}):
        with pytest.raises(UsageError, match=r"m\.parquet, row 1"):
            plan(tmp_path / "_plan", tmp_path / "m.parquet", faces_column="faces", **columns)


def test_rows_with_bytes_are_images(tmp_path: Path) -> None:
    """Bytes come from a column or a field of structs, named by their row in the file, nulls passed over."""
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
        assert contents(stored) == {f"{path.as_uri()}#{n}": data for n, data in enumerate(images) if data is not None}
        assert [item.faces and item.faces[0].face_id for item in items_of(stored)] == ["left", (), None, None]
        shards = [stored.read_shard(index) for index in range(stored.shard_count)]
        assert [(shard.row_group, shard.images) for shard in shards] == [(0, 3), (2, 1)]
        assert (facts.images, facts.imageless_rows) == (4, 1)


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"bytes_column": "uri"}, "holds string in 'uri', not bytes"),
        ({"uri_column": "image"}, "holds binary in 'image', not text"),
        ({"uri_column": "number"}, "holds int64"),
        ({"bytes_column": "image.bytes"}, "no column 'image.bytes'"),
        ({"bytes_column": "image", "faces_column": "boxes"}, "no column 'boxes'"),
    ],
)
def test_columns_of_other_kinds_are_refused(tmp_path: Path, columns: dict[str, str], words: str) -> None:
    """A column that does not hold what it should is named, with what it holds."""
    pq.write_table(pa.table({"uri": ["a"], "image": [b"a"], "number": [1]}), tmp_path / "m.parquet")
    with pytest.raises(UsageError, match=words):
        plan(tmp_path / "_plan", tmp_path / "m.parquet", **columns)


def reasons(tmp_path: Path, payloads: PayloadSettings, *uris: str) -> list[Reason | bytes]:
    """Return what becomes of each URI in a manifest, after one that may be read."""
    fill(tmp_path / "in", {"good.jpg": b"good"})
    write_jsonl(tmp_path / "in" / "m.jsonl", [(uri, None) for uri in ("good.jpg", *uris)])
    stored, _ = plan(tmp_path / "_plan", tmp_path / "in" / "m.jsonl", uri_column="uri", payloads=payloads)
    access = stored.grant_access(payloads)
    found: list[Reason | bytes] = []
    for item in items_of(stored)[1:]:
        try:
            found.append(read_image_bytes(item, access))
        except Unscorable as error:
            found.append(error.reason)
    return found


def test_a_manifest_reaches_no_further_than_its_folder(tmp_path: Path) -> None:
    """Paths and links that lead out, other hosts and other schemes are forbidden, until the settings list them."""
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
    assert set(reasons(tmp_path, PayloadSettings(), *files, *others)) == {Reason.FORBIDDEN_URI}
    listed = PayloadSettings(schemes=("file",), file_roots=(tmp_path / "secret",))
    found = reasons(tmp_path, listed, *files, *others)
    assert found == [b"secret"] * len(files) + [Reason.FORBIDDEN_URI] * len(others)


def test_a_manifest_of_forbidden_images_is_refused_at_once(tmp_path: Path) -> None:
    """When even the first image may not be read, planning says so instead of ten million errors."""
    for uri in ("https://images.example/a.jpg?token=hunter2", "s3://bucket/a.jpg", "/etc/hostname", "../a.jpg"):
        write_csv(tmp_path / "m.csv", [(None, None), (uri, None)])
        with pytest.raises(UsageError, match="may not be read") as error:
            plan(tmp_path / "_plan", tmp_path / "m.csv", uri_column="uri")
        assert "hunter2" not in str(error.value)
    listed = PayloadSettings(https_hosts=("images.example",))
    write_csv(tmp_path / "m.csv", [("https://images.example/a.jpg", None)])
    assert plan(tmp_path / "_plan", tmp_path / "m.csv", uri_column="uri", payloads=listed)[1].images == 1
