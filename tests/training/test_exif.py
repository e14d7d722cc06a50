"""Typed EXIF from numbers, rationals and text."""

import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.TiffImagePlugin import IFDRational

from training.data.exif import EXIF_IFD, ExifTags, parse_positive, read_camera, read_exif


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("1/125 sec", 0.008),
        ("1/125", 0.008),
        ("0.5", 0.5),
        ("F2.8", 2.8),
        ("f/4", 4.0),
        ("50 mm", 50.0),
        (b"200\x00", 200.0),
        ((100, 200), 100.0),
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
    """Every spelling a camera uses becomes one positive number, or none."""
    assert parse_positive(value) == (None if expected is None else pytest.approx(expected))


@settings(deadline=None)  # the first text strategy is slow to build
@given(st.one_of(st.text(), st.binary(), st.floats(), st.integers()))
def test_no_value_raises(value: object) -> None:
    """Whatever stands in a tag, the result is a positive finite number or None."""
    number = parse_positive(value)
    assert number is None or 0 < number < float("inf")


@given(st.integers(1, 8000), st.integers(1, 60))
def test_fractions_keep_their_order(first: int, second: int) -> None:
    """1/125 is shorter than 1/60: the text is a quotient, not its denominator."""
    left, right = parse_positive(f"1/{first}"), parse_positive(f"1/{second}")
    assert (left < right) == (first > second)


def save_with_exif(tags: dict[int, object], make: str = "") -> Image.Image:
    """Return a reopened JPEG with `tags` in its EXIF block."""
    exif = Image.Exif()
    if make:
        exif[0x10F] = make
    exif.get_ifd(EXIF_IFD).update(tags)
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "JPEG", exif=exif)
    return Image.open(buffer)


def test_direct_tags_are_read_from_a_jpeg() -> None:
    """The four tags and the camera come out of a real file's EXIF block."""
    image = save_with_exif({0x829D: 2.8, 0x829A: 1 / 125, 0x920A: 35.0, 0x8827: 400}, make="Maker")
    tags = read_exif(image)
    assert tags.as_floats() == pytest.approx((2.8, 0.008, 35.0, 400.0), rel=1e-3)
    assert read_camera(image) == "Maker"


def test_apex_values_stand_in() -> None:
    """An aperture of 3 APEX is f/2.83, a shutter speed of 7 APEX 1/128 s."""
    tags = read_exif(save_with_exif({0x9202: 3.0, 0x9201: 7.0}))
    assert tags == ExifTags(pytest.approx(2.828, rel=1e-3), pytest.approx(1 / 128, rel=1e-3), None, None)
