"""EXIF tags from numbers, rationals, text and JSON."""

import io
import json
import math
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from PIL.TiffImagePlugin import IFDRational

from ingest.exif import FIELDS, PLAUSIBLE, ExifReading, ExifTags, parse_apex, parse_positive, read_header_tags
from ingest.formats.header import EXIF_IFD
from ingest.probe import probe_image
from tests.ingest.formats.heif_files import make_picture
from tests.ingest.formats.jxl_files import encode, wrap, write_box
from training.data.exif import read_exif, read_file_exif, read_json_exif


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("1/125 sec", 0.008),
        ("1/125", 0.008),
        ("0.5", 0.5),
        ("F2.8", 2.8),
        ("f/4", 4.0),
        ("50 mm", 50.0),
        ("f/2.8", 2.8),
        ("55.0 mm", 55.0),
        ("0.5 sec", 0.5),
        ("1/0 sec", None),
        ("F", None),
        ("ISO 400", 400.0),
        ("1.25e-4", 0.000125),
        ("-2", None),
        ("1e400", None),
        ("9" * 400 + "/" + "9" * 400, None),
        ("1/1e-320", None),
        (True, None),
        (((((1,),),),), None),
        ("\u0661\u0662", None),
        (b"200\x00", 200.0),
        ((1, 125), 0.008),
        ([0, 0], None),
        ((2.8, 4.0), 2.8),
        (IFDRational(1, 8), 0.125),
        (IFDRational(1, 0), None),
        (0, None),
        (float("inf"), None),
        (float("nan"), None),
        ("1/0", None),
        ("", None),
        (None, None),
        ((), None),
        ("__import__('os').abort()", None),
    ],
)
def test_values_are_parsed_and_never_evaluated(value: object, expected: float | None) -> None:
    """Every format that cameras write becomes one positive number, or None."""
    assert parse_positive(value) == (None if expected is None else pytest.approx(expected))


ANYTHING = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.text(),
        st.binary(),
        st.floats(),
        st.integers(),
        st.fractions(),
        st.from_regex(r"[fF]?/?[0-9.]{1,6}(/[0-9.]{1,6})?( sec| mm)?", fullmatch=True),
        st.builds(IFDRational, st.integers(), st.integers()),
    ),
    lambda values: st.lists(values, max_size=2) | st.tuples(values),
    max_leaves=4,
)


@given(ANYTHING)
def test_no_value_raises(value: object) -> None:
    """For any value of a tag, the result is a positive finite number or None."""
    for number in (parse_positive(value), parse_apex(value, math.sqrt(2)), parse_apex(value, 0.5)):
        assert number is None or 0 < number < float("inf")


@given(st.integers(1, 8000), st.integers(1, 60))
def test_fractions_keep_their_order(first: int, second: int) -> None:
    """1/125 is shorter than 1/60: the text is a quotient, not its denominator."""
    left, right = parse_positive(f"1/{first}"), parse_positive(f"1/{second}")
    assert left is not None
    assert right is not None
    assert (left < right) == (first > second)


def save_with_exif(tags: dict[int, object], make: str = "", kind: str = "JPEG") -> bytes:
    """Return a picture with `tags` in its EXIF block."""
    exif = Image.Exif()
    if make:
        exif[0x10F] = make
    exif.get_ifd(EXIF_IFD).update(tags)
    buffer = io.BytesIO()
    Image.new("RGB", (32, 32)).save(buffer, kind, exif=exif)
    return buffer.getvalue()


def read(tags: dict[int, object], make: str = "") -> ExifReading:
    """Return what is read from a JPEG with `tags`."""
    return read_twice(save_with_exif(tags, make))


def read_twice(data: bytes) -> ExifReading:
    """Return what training reads from a file; explanations read the same tags from its headers."""
    reading = read_file_exif(data)
    assert reading is not None
    assert read_header_tags(data, probe_image(data)) == reading.tags
    return reading


@pytest.mark.parametrize("kind", ["JPEG", "MPO", "PNG", "WEBP"])
def test_every_kind_of_file_is_read(kind: str) -> None:
    """The four tags and the camera of every format are read; MPO is that of phones, with several pictures."""
    fields = {0x829D: 2.8, 0x829A: 1 / 125, 0x920A: 35.0, 0x8827: 400}
    reading = read_twice(save_with_exif(fields, "Maker\x00\n", kind))
    assert reading.tags.as_floats() == pytest.approx((2.8, 0.008, 35.0, 400.0), rel=1e-3)
    assert (reading.camera, reading.implausible) == ("Maker", ())


def test_apex_values_replace_absent_ones() -> None:
    """An aperture of 3 APEX is f/2.83, a shutter speed of 7 APEX 1/128 s."""
    tags = read({0x9202: 3.0, 0x9201: 7.0}).tags
    assert tags == ExifTags(pytest.approx(2.828, rel=1e-3), pytest.approx(1 / 128, rel=1e-3), None, None)


UNKNOWN = (IFDRational(0, 1), IFDRational(0, 0), IFDRational(1, 0))


@given(st.sampled_from(UNKNOWN), st.sampled_from(UNKNOWN))
def test_an_unknown_value_is_no_apex_zero(direct: IFDRational, apex: IFDRational) -> None:
    """Zeros in both fields, of a lens that is not known, are neither f/1 nor 1 s."""
    assert read({0x829D: direct, 0x9202: apex, 0x829A: direct, 0x9201: apex}).tags == ExifTags()
    assert read_json_exif({"FNumber": "0", "Aperture Value": "F1.0"}).tags == ExifTags()


def test_an_apex_value_of_zero_counts_alone() -> None:
    """The APEX value 0 alone is 1 s; beside an unknown value another one counts."""
    assert read({0x9201: 0.0}).tags == ExifTags(None, 1.0)
    assert read({0x829D: IFDRational(0, 1), 0x9202: 4.0}).tags.f_number == pytest.approx(4)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({0x8827: 400, 0x8830: 2, 0x8832: 800}, 400),  # the 16-bit field is not full
        ({0x8827: 65535, 0x8830: 2, 0x8832: 102400}, 102400),
        ({0x8827: 65535, 0x8830: 3, 0x8832: 70000, 0x8833: 409600}, 409600),
        ({0x8827: 65535, 0x8830: 1, 0x8831: 204800, 0x8832: 102400}, 204800),
        ({0x8827: 65535, 0x8830: 1, 0x8832: 102400}, 102400),  # the named field is absent
        ({0x8827: 65535}, None),
        ({0x8827: 65535, 0x8830: 2, 0x8832: 0}, None),
        ({0x8827: 65535, 0x8830: 2, 0x8832: 6400}, None),  # contradicts the full field
        ({0x8827: 0, 0x8830: 1, 0x8831: 500}, 500),
        ({0x8833: 320}, 320),
        ({0x8833: 4294967295}, None),
        ({0x8827: (0, 200)}, 200),
        ({0x8827: (2000, 0)}, 2000),
        ({0x8827: (0, 0)}, None),
    ],
)
def test_the_iso_speed_is_that_of_the_field_that_has_it(fields: dict[int, object], expected: float | None) -> None:
    """ISO speeds above 16 bits are in another field; the first that is not zero counts."""
    assert read(fields).tags.iso == expected


@given(st.integers(1, 10**7), st.sampled_from([(1, 0x8831), (2, 0x8832), (3, 0x8833)]))
def test_the_iso_speed_is_read_as_the_standard_writes_it(iso: int, field: tuple[int, int]) -> None:
    """The speed that EXIF 2.3 writes twice is returned in full."""
    kind, number = field
    assert read({0x8827: min(iso, 65535), 0x8830: kind, number: iso}).tags.iso == iso


VALUES = st.one_of(
    st.none(), st.integers(0, 200_000), st.builds(IFDRational, st.integers(0, 9000), st.integers(0, 9000))
)


@given(st.dictionaries(st.sampled_from(sorted(FIELDS)), VALUES))
def test_a_file_and_a_json_have_one_meaning(fields: dict[str, IFDRational | int | None]) -> None:
    """The same values have the same tags, whether they are in a file's EXIF or as text in a JSON."""
    present = {name: value for name, value in fields.items() if value is not None}
    if present.get("isospeedratings", 0) > 65535:  # no file can contain it
        del present["isospeedratings"]
    image = Image.new("RGB", (8, 8))
    image.getexif().get_ifd(EXIF_IFD).update({FIELDS[name]: value for name, value in present.items()})
    texts = {
        name: f"{value.numerator}/{value.denominator}" if isinstance(value, IFDRational) else str(value)
        for name, value in present.items()
    }
    of_file, of_json = read_exif(image), read_json_exif(texts)
    assert of_file.tags.as_floats() == pytest.approx(of_json.tags.as_floats(), nan_ok=True)
    assert of_file.implausible == of_json.implausible


def test_implausible_values_are_absent_and_named() -> None:
    """An implausible value is left out and named; zero is only left out."""
    reading = read({0x829D: 4e6, 0x829A: 90000.0, 0x920A: 0.0, 0x8827: 400})
    assert reading.tags == ExifTags(iso=400)
    assert reading.implausible == ("f_number", "exposure_time_s")


def test_a_plausible_apex_value_replaces_an_implausible_direct_one() -> None:
    """If one of two values of a tag is damaged, the other one is used."""
    reading = read({0x829D: 4e6, 0x9202: 4.0})
    assert reading.tags.f_number == pytest.approx(4)
    assert reading.implausible == ()


def test_damaged_metadata_differs_from_none() -> None:
    """A picture without EXIF has no tags; one whose EXIF cannot be read is None."""
    assert read_file_exif(save_with_exif({})) == ExifReading()
    assert read_file_exif(b"\xff\xd8\xff") is None


def test_fdf_json_is_read() -> None:
    """The release's JSON of one Flickr photograph is read."""
    document = {
        "EXIF": {
            "ISO Speed Ratings": "400",
            "Aperture Value": "F2.8",
            "Exposure Time": "1/125 sec",
            "Focal Length": "55.0 mm",
            "Make": "Maker",
            "Model": "One",
        }
    }
    assert read_json_exif(document) == ExifReading(ExifTags(2.8, 0.008, 55.0, 400.0), "Maker One")


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"EXIF FNumber": "14/5", "EXIF ExposureTime": "1/50", "Image Make": "M"}, ExifTags(2.8, 0.02)),
        ({"Aperture Value": 4}, ExifTags(4.0)),  # a bare number is APEX: sqrt(2) ** 4
        ({"Aperture Value": "F"}, ExifTags()),
        ({"F-Number": "f/8.0", "Aperture Value": "F2"}, ExifTags(8.0)),
        ({"Shutter Speed Value": "1/60 sec"}, ExifTags(None, 1 / 60)),
        ({"Shutter Speed Value": "5"}, ExifTags(None, 1 / 32)),
        ({"PhotographicSensitivity": [100, 0]}, ExifTags(None, None, None, 100.0)),
        ({"ISO Speed Ratings": "125, 0"}, ExifTags(None, None, None, 125.0)),
        ({"ISO Speed Ratings": 0, "ISO": "ISO 200"}, ExifTags(None, None, None, 200.0)),
        ({"ISOSpeedRatings": "65535", "Recommended Exposure Index": "102400"}, ExifTags(None, None, None, 102400.0)),
        ({"Exposure Time": [1, 125]}, ExifTags(None, 0.008)),
        ({"FocalLengthIn35mmFormat": "26 mm"}, ExifTags()),
        ({"ISO Speed Ratings": "99999999"}, ExifTags()),
    ],
)
def test_other_spellings_are_read(fields: dict[str, object], expected: ExifTags) -> None:
    """Field names of other tools, and JSON text, are read."""
    assert read_json_exif(fields).tags.as_floats() == pytest.approx(expected.as_floats(), nan_ok=True)
    assert read_json_exif(json.dumps(fields)) == read_json_exif(fields)


JSON_NAMES = (
    "EXIF",
    "Aperture Value",
    "F-Number",
    "Exposure Time",
    "Shutter Speed Value",
    "Focal Length",
    "ISO",
    "Make",
)


@given(
    st.one_of(
        ANYTHING,
        st.dictionaries(st.sampled_from(JSON_NAMES) | st.text(), ANYTHING | st.dictionaries(st.text(), ANYTHING)),
        st.fixed_dictionaries({"EXIF": st.dictionaries(st.sampled_from(JSON_NAMES), ANYTHING)}),
    )
)
def test_no_json_raises(document: object) -> None:
    """For any JSON, each tag is absent or plausible, and the camera is printable."""
    reading = read_json_exif(document)
    assert reading.camera.isprintable()
    for name, (low, high) in PLAUSIBLE.items():
        value = getattr(reading.tags, name)
        assert value is None or low <= value <= high


def test_deeply_nested_json_text_is_no_tag() -> None:
    """Text that exceeds the parser's recursion limit has no tags and raises nothing."""
    assert read_json_exif("[" * 100_000) == ExifReading()


@pytest.mark.parametrize("kind", ["HEIF", "AVIF", "JXL"])
def test_tags_of_phone_originals_are_read(kind: str) -> None:
    """The EXIF item of HEIC and AVIF, and the box of JPEG XL, give the same tags as a JPEG's block."""
    exif, buffer = Image.Exif(), io.BytesIO()
    exif[0x010F] = "Maker"
    exif.get_ifd(0x8769).update({0x829D: 1.8, 0x829A: 0.01, 0x920A: 4.2, 0x8827: 80})
    if kind == "JXL":
        block = write_box(b"Exif", bytes(4) + exif.tobytes().removeprefix(b"Exif\0\0"))
        buffer.write(wrap(encode(make_picture()), block))
    else:
        make_picture().save(buffer, kind, exif=exif.tobytes())
    reading = read_twice(buffer.getvalue())
    assert reading.camera == "Maker"
    assert reading.tags.as_floats() == pytest.approx((1.8, 0.01, 4.2, 80.0))


@given(st.binary(max_size=200), st.integers(0, 13), st.integers(0, 2**32 - 1))
def test_damaged_headers_have_no_tags(content: bytes, kind: int, count: int) -> None:
    """Whatever types, counts and positions a directory states, reading it raises nothing and takes a bounded time."""
    entries = b"".join(struct.pack("<HHII", number, kind, count, 30) for number in sorted(FIELDS.values()))
    head = b"II*\0" + struct.pack("<IHHHIIIH", 8, 1, EXIF_IFD, 4, 1, 26, 0, len(FIELDS)) + entries
    exif = b"Exif\0\0" + head + content
    data = b"\xff\xd8\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + save_with_exif({})[2:]
    tags = read_header_tags(data, probe_image(data))
    assert all(low <= (getattr(tags, name) or low) <= high for name, (low, high) in PLAUSIBLE.items())
