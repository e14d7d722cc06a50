"""Inputs of `prepare`, and the errors of damaged ones."""

import gzip
import json
import tarfile
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from ingest.exif import ExifTags
from ingest.probe import DEFAULT_LIMITS
from ingest.reasons import Unscorable
from ingest.spec import FaceBox
from tests.scorer.archive.source.archives import fill, make_tar
from training.data.datasets import CelebaHqPhotos, FdfPhotos, split_celeba
from training.data.manifests import ParquetPhotos
from training.data.photos import FolderPhotos, Photo, PhotoSource
from training.data.sources import open_source
from training.data.tars import TarPhotos


def read_all(source: PhotoSource) -> list[tuple[str, str, bytes]]:
    """Return name, source and bytes of every photograph, each read before the next one is listed."""
    return [(photo.name, photo.source, photo.read()) for photo in source.list_photos()]


def tags_of(photo: Photo) -> ExifTags:
    """Return the tags that the input contains."""
    assert photo.read_exif is not None
    reading = photo.read_exif()
    return reading.tags


def test_the_top_folder_is_the_source(tmp_path: Path) -> None:
    """Pictures at any depth belong to the top folder, others to the input's folder."""
    for name in ("ann/one.jpg", "ann/2019/may/two.jpg", "bob/three.jpg", "four.jpg", "ann/.hidden.jpg"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    source = open_source(str(tmp_path))
    assert isinstance(source, FolderPhotos)
    assert read_all(source) == [
        ("ann/2019/may/two.jpg", "ann", b"ann/2019/may/two.jpg"),
        ("ann/one.jpg", "ann", b"ann/one.jpg"),
        ("bob/three.jpg", "bob", b"bob/three.jpg"),
        ("four.jpg", tmp_path.name, b"four.jpg"),
    ]


def test_a_file_too_large_for_an_image_is_not_read(tmp_path: Path) -> None:
    """A large video among the pictures is refused by its size."""
    with (tmp_path / "film.mov").open("wb") as handle:
        handle.truncate(DEFAULT_LIMITS.max_bytes + 1)
    photo = next(open_source(str(tmp_path)).list_photos())
    with pytest.raises(Unscorable, match="the limit is"):
        photo.read()


def test_tars_are_expanded_and_stream_their_samples(tmp_path: Path) -> None:
    """Braces expand to tars; a sample's JSON gives source and tags; no name is a path."""
    exif = json.dumps({"EXIF FNumber": "14/5"})
    first = [
        ("x/1.jpg", b"one"),
        ("x/1.json", json.dumps({"photographer": "ann", "exif": exif}).encode()),
        ("../../2.json", b'{"author": "bob"}'),
        ("../../2.png", b"two"),
    ]
    second = [("3.jpeg", b"three"), ("3.txt", b""), ("4.json", b"{"), ("4.webp", b"four"), ("5.cls", b"1")]
    fill(tmp_path, {"faces-00.tar": make_tar(first), "faces-01.tar": make_tar(second)})
    source = open_source(str(tmp_path / "faces-{00..01}.tar"))
    assert read_all(source) == [
        ("faces-00.tar/x/1.jpg", "ann", b"one"),
        ("faces-00.tar/../../2.png", "bob", b"two"),
        ("faces-01.tar/3.jpeg", "faces-01", b"three"),
        ("faces-01.tar/4.webp", "faces-01", b"four"),
    ]
    assert source.dropped == {"sample_without_picture": 1, "json_unreadable": 1}
    tagged, untagged, *_ = source.list_photos()
    assert tags_of(tagged) == ExifTags(2.8)
    assert untagged.read_exif is None  # the picture's own tags are read
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["faces-00.tar", "faces-01.tar"]


def test_a_missing_tar_is_named(tmp_path: Path) -> None:
    """A missing tar of a brace range is an error at the start."""
    fill(tmp_path, {"a-0.tar": make_tar([])})
    with pytest.raises(FileNotFoundError, match=r"there is no tar .*a-1\.tar"):
        open_source(str(tmp_path / "a-{0..1}.tar"))


@pytest.mark.parametrize("damage", ["compressed", "cut within a header", "cut within a picture"])
def test_a_damaged_tar_is_named(tmp_path: Path, damage: str) -> None:
    """A compressed tar, and one that is truncated within a header or a picture, are errors."""
    path = tmp_path / "a.tar"
    whole = make_tar([("1.jpg", bytes(3000)), ("2.jpg", bytes(3000))], tarfile.USTAR_FORMAT)
    path.write_bytes(
        gzip.compress(whole) if damage == "compressed" else whole[: 512 + 3072 + (100 if "header" in damage else 1024)]
    )
    with pytest.raises(ValueError, match=r"a\.tar is damaged or compressed"):
        list(TarPhotos((path,)).list_photos())


def test_parquet_with_bytes(tmp_path: Path) -> None:
    """Bytes, or Hugging Face's structs, are read over row groups; null is empty."""
    for name, cells in (("plain", [b"a", b"b", None]), ("nested", [{"bytes": b"a"}, {"bytes": b"b"}, {"bytes": None}])):
        path = tmp_path / f"{name}.parquet"
        table = pa.table({"Image": cells, "owner": ["ann", None, "bob"], "exif": ['{"ISO": 100}', None, "{"]})
        parquet.write_table(table, path, row_group_size=2)
        source = open_source(str(path))
        assert isinstance(source, ParquetPhotos)
        assert [row[1:] for row in read_all(source)] == [("ann", b"a"), (name, b"b"), ("bob", b"")]
        tagged, untagged, _ = source.list_photos()
        assert tags_of(tagged).iso == 100
        assert untagged.read_exif is None


def test_the_owner_of_a_row_is_the_first_that_is_known(tmp_path: Path) -> None:
    """Bytes and numbers are names too; null, NaN and empty text are none."""
    table = {"bytes": [b"a"] * 5, "source": [None, "", None, "s", None], "owner": [0.0, float("nan"), None, 2.0, None]}
    parquet.write_table(pa.table(table | {"author": [None, None, b"z\xc3\xa9\xff", None, b""]}), tmp_path / "m.parquet")
    sources = [photo.source for photo in open_source(str(tmp_path / "m.parquet")).list_photos()]
    assert sources == ["0.0", "m", "z\u00e9\udcff", "s", "m"]


def test_parquet_with_uris(tmp_path: Path) -> None:
    """Paths start at the manifest, fsspec reads URIs, and a folder is one input."""
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "1.jpg").write_bytes(b"one")
    uris = ["pictures/1.jpg", (tmp_path / "pictures" / "1.jpg").as_uri(), "pictures/absent.jpg"]
    parquet.write_table(pa.table({"uri": uris, "photographer": ["ann", "bob", "bob"]}), tmp_path / "photos.parquet")
    photos = list(open_source(str(tmp_path)).list_photos())
    assert [(photo.source, photo.read()) for photo in photos[:2]] == [("ann", b"one"), ("bob", b"one")]
    with pytest.raises(FileNotFoundError):
        photos[2].read()


def test_parquet_without_pictures_is_refused(tmp_path: Path) -> None:
    """The error names the existing and the possible columns."""
    path = tmp_path / "a.parquet"
    parquet.write_table(pa.table({"width": [1]}), path)
    with pytest.raises(ValueError, match="has the columns width; it must have one of bytes, image"):
        list(open_source(str(path)).list_photos())
    path.write_bytes(b"PAR1")
    with pytest.raises(ValueError, match="no Parquet file that can be read"):
        list(open_source(str(path)).list_photos())


def write_fdf(folder: Path) -> Path:
    """Write a small FDF with the release's folders; return its folder."""
    fdf = folder / "FDF" / "data" / "fdf"
    (fdf / "images" / "128").mkdir(parents=True)
    exif = folder / "fdf_ccby2_exif_update_filtered_v2"
    exif.mkdir()
    url = "http://www.flickr.com/photos/{}/{}/"
    entries = {
        "0": {"author": "ann", "bounding_box": [0.25, 0.125, 0.75, 0.875], "photo_url": url.format("1@N00", 7000)},
        "1": {"bounding_box": [0.5, 0.5, 0.5, 0.9], "photo_url": url.format("2@N00", 7001)},
        "2": {"author": "ann", "bounding_box": [0.1, 0.1, 0.9, 0.9], "photo_url": url.format("1@N00", 7002)},
        "3": {"author": "bob", "bounding_box": [0.1, 0.1, 0.9, 0.9], "photo_url": url.format("3@N00", 7000)},
    }
    (fdf / "fdf_metainfo.json").write_text(json.dumps(entries))
    for index in ("0", "1", "2"):
        (fdf / "images" / "128" / f"{index}.png").write_bytes(index.encode())
    tags = {
        "ISO Speed Ratings": "200",
        "Aperture Value": "F4.0",
        "Exposure Time": "1/60 sec",
        "Focal Length": "35.0 mm",
    }
    for photo in ("7000", "7001"):
        (exif / f"{photo}.json").write_text(json.dumps({"EXIF": tags}))
    return fdf


def test_fdf_is_read_without_its_pickle(tmp_path: Path) -> None:
    """Boxes are fractions, the URL finds the tags, a face without a JSON is left out."""
    fdf = write_fdf(tmp_path)
    source = open_source(str(tmp_path / "FDF"))
    assert isinstance(source, FdfPhotos)
    first, second = source.list_photos()
    assert (first.name, first.source, first.read()) == ("128/0.png", "ann", b"0")
    assert first.boxes == (FaceBox(32, 16, 64, 96),)
    assert tags_of(first) == ExifTags(4.0, pytest.approx(1 / 60), 35.0, 200.0)
    assert (second.source, second.boxes) == ("2@N00", ())  # without an author, Flickr's user; an empty box is no box
    assert source.dropped == {"without_exif_json": 1, "without_picture": 1}
    untagged = FdfPhotos(fdf, None)
    assert [photo.name for photo in untagged.list_photos()] == ["128/0.png", "128/1.png", "128/2.png"]
    assert all(tags_of(photo) == ExifTags() for photo in untagged.list_photos())


def test_fdf_takes_the_larger_pictures_and_names_absent_ones(tmp_path: Path) -> None:
    """Boxes are in pixels of the larger pictures; absent pictures are an error."""
    fdf = write_fdf(tmp_path)
    (fdf / "images" / "256").mkdir()
    (fdf / "images" / "256" / "0.png").write_bytes(b"large")
    (photo,) = open_source(str(fdf)).list_photos()
    assert photo.boxes == (FaceBox(64, 32, 128, 192),)
    (fdf / "images").rename(fdf / "elsewhere")
    with pytest.raises(ValueError, match="has neither a folder 256 nor 128"):
        list(open_source(str(fdf)).list_photos())


def test_damaged_fdf_metadata_is_named(tmp_path: Path) -> None:
    """A truncated download is an error, after the complete entries."""
    fdf = write_fdf(tmp_path)
    text = (fdf / "fdf_metainfo.json").read_text()
    (fdf / "fdf_metainfo.json").write_text(text[: len(text) // 2])
    with pytest.raises(ValueError, match=r"fdf_metainfo\.json is damaged"):
        list(open_source(str(fdf)).list_photos())


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.recursive(
        st.none() | st.floats() | st.text() | st.integers(-(2**62), 2**62),
        lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner),
    )
)
def test_no_entry_of_fdf_raises(tmp_path: Path, value: object) -> None:
    """For any content of an entry, its picture is listed, with or without a box."""
    (tmp_path / "images" / "128").mkdir(parents=True, exist_ok=True)
    (tmp_path / "images" / "128" / "0.png").write_bytes(b"")
    entry = {"author": value, "bounding_box": value, "photo_url": value}
    text = json.dumps({"0": entry}).replace("NaN", "1e9").replace("Infinity", "1e9")
    (tmp_path / "fdf_metainfo.json").write_text(text)
    (photo,) = FdfPhotos(tmp_path, None).list_photos()
    assert photo.boxes is not None


def write_celeba(folder: Path, count: int) -> None:
    """Write numbered pictures in the folder of CelebAMask-HQ."""
    (folder / "CelebA-HQ-img").mkdir(parents=True)
    for number in range(count):
        (folder / "CelebA-HQ-img" / f"{number}.jpg").write_bytes(str(number).encode())


def test_a_sixth_of_celeba_hq_is_for_the_test(tmp_path: Path) -> None:
    """The test takes CelebA's test part first; unmapped pictures are counted."""
    write_celeba(tmp_path, 7)
    rows = ["idx  orig_idx   orig_file", *(f"{number} {number} x" for number in range(5)), "5 182637 x", "6 202599 x"]
    (tmp_path / "CelebA-HQ-to-CelebA-mapping.txt").write_text("\n".join(rows) + "\n")
    source = open_source(str(tmp_path))
    assert isinstance(source, CelebaHqPhotos)
    photos = list(source.list_photos())
    assert [photo.role for photo in photos] == ["fit"] * 5 + ["test"]
    assert {(photo.source, photo.role) for photo in photos} == {("celeba-hq/train", "fit"), ("celeba-hq/test", "test")}
    assert source.dropped == {"not_in_a_list": 1}
    assert "not split by person" in source.describe()
    (tmp_path / "identity_CelebA.txt").write_text("000001.jpg 7\n182638.jpg 8\n")
    assert "split by person" in source.describe()
    assert [photo.role for photo in source.list_photos()] == ["fit"] * 5 + ["test"]
    (tmp_path / "identity_CelebA.txt").write_text("000001.jpg\n")
    with pytest.raises(ValueError, match=r"identity_CelebA\.txt is no table of pictures and persons"):
        list(source.list_photos())


def test_celeba_hq_is_split_as_in_the_paper() -> None:
    """Exactly 5,000 of 30,000 are for the test; known persons stay together."""
    starts, counts = (0, 162_770, 182_637), (24_183, 2_993, 2_824)  # the numbers of CelebA-HQ
    numbers = [start + 5 * index for start, count in zip(starts, counts, strict=True) for index in range(count)]
    originals = dict(enumerate(numbers))
    persons = {original: original // 23 for original in numbers}
    for known in (persons, {}):
        roles = split_celeba(originals, known)
        test = [originals[number] for number, role in roles.items() if role == "test"]
        assert (len(roles), len(test)) == (30_000, 5_000)
        assert set(numbers[-2_824:]) <= set(test) <= set(numbers[24_183:])
    roles = split_celeba(originals, persons)
    sides = {(persons[originals[number]], role) for number, role in roles.items()}
    assert len(sides) == len(set(persons.values()))
    assert split_celeba(dict(reversed(originals.items())), persons) == roles


def test_the_release_s_lists_give_the_roles(tmp_path: Path) -> None:
    """`train.txt` fits the mixture, and `test.txt` tests it."""
    write_celeba(tmp_path, 400)
    (tmp_path / "train.txt").write_text("".join(f"../data/celeba-face/{number}.jpg\n" for number in range(300)))
    (tmp_path / "test.txt").write_text("".join(f"C:\\data\\{number:05}.jpg\n" for number in range(300, 390)))
    roles = [photo.role for photo in open_source(str(tmp_path)).list_photos()]
    assert roles == ["fit"] * 300 + ["test"] * 90


def test_a_broken_mapping_is_named(tmp_path: Path) -> None:
    """A file of that name without the columns is an error."""
    write_celeba(tmp_path, 1)
    (tmp_path / "image_list.txt").write_text("nothing here\n1 2\n")
    with pytest.raises(ValueError, match=r"image_list\.txt is no table with the columns idx and orig_idx"):
        list(open_source(str(tmp_path)).list_photos())


def test_a_missing_input_is_named(tmp_path: Path) -> None:
    """The error for a path that does not exist says what to give."""
    with pytest.raises(FileNotFoundError, match="there is no folder, tar or Parquet file"):
        open_source(str(tmp_path / "absent"))
