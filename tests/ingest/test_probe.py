"""What `probe_image` reads from the headers of accepted pictures."""

import hashlib
import io
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from ingest.formats.header import read_orientation
from ingest.orientation import find_stored_window, turn_upright
from ingest.probe import EncodedFace, ImageInfo, Limits, probe_image, strip_metadata
from ingest.reasons import Reason, Unscorable
from ingest.spec import Window

ORIENTATION = 0x0112
KINDS = ["JPEG", "PNG", "WEBP"]
NOISE = np.random.default_rng(2).integers(0, 256, (37, 53, 3), dtype=np.uint8)  # odd sides show errors of one pixel
PICTURE = Image.fromarray(NOISE)


def encode(picture: Image.Image, kind: str, **options: object) -> bytes:
    """Return `picture` as encoded bytes."""
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def make_exif(orientation: int) -> Image.Exif:
    """Return an EXIF block with the orientation tag and another one."""
    exif = Image.Exif()
    exif[0x010F] = "A maker whose name is stored behind the directory"
    exif[ORIENTATION] = orientation
    return exif


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", KINDS)
def test_sides_are_upright(kind: str, orientation: int) -> None:
    """Width and height are those of the picture that Pillow turns, for every container and orientation."""
    data = encode(PICTURE, kind, exif=make_exif(orientation))
    info = probe_image(data)
    turned = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    assert (info.width, info.height) == turned.size
    assert info.stored_size == PICTURE.size
    assert info.orientation == orientation
    assert info.media_type == f"image/{kind.lower()}"
    assert info.sha256 == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"lossless": True}])
def test_a_picture_without_exif_is_upright(kind: str, options: dict[str, bool]) -> None:
    """Without EXIF the orientation is 1; progressive, lossy and lossless headers are all read."""
    info = probe_image(encode(PICTURE, kind, **options))
    assert (info.width, info.height, info.orientation) == (*PICTURE.size, 1)


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGBA", "I;16"])
def test_every_png_colour_type_is_accepted(mode: str) -> None:
    """Grey, palette, alpha and 16-bit PNG are accepted."""
    picture = Image.fromarray(NOISE[:, :, 0].astype(np.uint16) * 257) if mode == "I;16" else PICTURE.convert(mode)
    assert probe_image(encode(picture, "PNG")).width == PICTURE.width


@given(st.sampled_from("<>"), st.sampled_from([(3, "HH"), (4, "I")]), st.integers(0, 65535))
def test_orientation_of_a_hand_made_directory(order: str, field: tuple[int, str], value: int) -> None:
    """Both byte orders and both integer types are read; a value outside 1..8 counts as upright."""
    kind, layout = field
    packed = struct.pack(order + layout, *((value, 0) if kind == 3 else (value,)))
    magic = b"II*\0" if order == "<" else b"MM\0*"
    other = struct.pack(order + "HHII", 0x0100, 4, 1, 7)
    entry = struct.pack(order + "HHI", ORIENTATION, kind, 1) + packed
    block = magic + struct.pack(order + "IH", 8, 2) + other + entry
    assert read_orientation(block) == (value if 1 <= value <= 8 else 1)
    assert read_orientation(b"Exif\0\0" + block) == read_orientation(block)


@given(st.binary(max_size=200).map(lambda tail: b"Exif\0\0MM\0*" + tail) | st.binary(max_size=200))
def test_any_metadata_has_an_orientation(block: bytes) -> None:
    """Damaged metadata never raises."""
    assert 1 <= read_orientation(block) <= 8


@given(st.integers(1, 8), st.data())
def test_a_stored_window_has_the_pixels_of_the_upright_one(orientation: int, data: st.DataObject) -> None:
    """Cutting and then turning gives the same as turning and then cutting, for every orientation and window."""
    upright = turn_upright(NOISE, orientation)
    height, width, _ = upright.shape
    info = ImageInfo("image/png", width, height, orientation, "")
    left, top = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    window = Window(left, top, data.draw(st.integers(1, width - left)), data.draw(st.integers(1, height - top)))
    stored = find_stored_window(window, info)
    cut = NOISE[stored.top : stored.top + stored.height, stored.left : stored.left + stored.width]
    expected = upright[top : top + window.height, left : left + window.width]
    assert np.array_equal(turn_upright(cut, orientation), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_stripping_removes_metadata_and_no_pixel(kind: str) -> None:
    """A file without its metadata decodes to the same stored pixels and contains no EXIF."""
    data = encode(PICTURE, kind, exif=make_exif(6), icc_profile=b"profile " * 50)
    bare = strip_metadata(data, f"image/{kind.lower()}")
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(bare))), np.asarray(Image.open(io.BytesIO(data))))
    assert b"A maker" in data
    assert b"A maker" not in bare
    assert b"profile" not in bare
    assert probe_image(bare).orientation == 1


def test_stripping_adds_no_scan() -> None:
    """A fill byte before metadata forms no marker with the bytes after them when the metadata are removed."""
    data = encode(PICTURE, "JPEG")
    scan = data[data.rindex(b"\xff\xda") : -2]
    hidden = data[:-2] + (b"\xff\xff\xe1\0\x02" + scan[1:]) * 200 + data[-2:]
    assert probe_image(hidden).scans == 1
    assert probe_image(strip_metadata(hidden, "image/jpeg")).scans == 1


def test_stripping_keeps_a_scan_without_parameters() -> None:
    """Decoders refuse such a scan, so that a file without it would be another picture."""
    data = encode(PICTURE, "JPEG", progressive=True)
    empty = data[:-2] + b"\xff\xda\0\x02" + data[-2:]
    assert probe_image(strip_metadata(empty, "image/jpeg")).scans == probe_image(empty).scans


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        (Limits(max_bytes=100), Reason.TOO_MANY_BYTES),
        (Limits(max_pixels=53 * 37 - 1), Reason.TOO_MANY_PIXELS),
        (Limits(max_side=52), Reason.SIDE_TOO_LONG),
        (Limits(min_side=38), Reason.SIDE_TOO_SHORT),
        (Limits(max_scans=9), Reason.TOO_MANY_SCANS),
        (Limits(max_scan_pixels=10 * 53 * 37 - 1), Reason.TOO_MANY_SCANS),
    ],
)
def test_each_limit_has_its_reason(limits: Limits, reason: Reason) -> None:
    """A progressive picture of 53 x 37 pixels in 10 scans is accepted, and refused if one limit is lower by one."""
    data = encode(PICTURE, "JPEG", progressive=True)
    pixels = 53 * 37
    exact = Limits(len(data), pixels, 53, 37, max_scans=10, max_scan_pixels=10 * pixels)
    probe_image(data, exact)
    with pytest.raises(Unscorable) as refusal:
        probe_image(data, limits)
    assert refusal.value.reason is reason


def test_a_window_outside_its_image_is_an_error_of_the_caller() -> None:
    """A face with a window that `crop_window` cannot return raises ValueError."""
    info = probe_image(encode(PICTURE, "PNG"))
    with pytest.raises(ValueError, match="use crop_window"):
        EncodedFace(b"", info, Window(40, 0, 14, 10))
