"""HEIC, AVIF and JPEG XL: the same pixels as independent decoders, in every turn, whole or in parts."""

import io

import numpy as np
import pytest
from PIL import Image, ImageOps

from ingest.dali import FaceCropper
from ingest.decode_heif import decode_heif
from ingest.formats.heif_writer import strip_heif
from ingest.image_metadata import read_image_metadata
from ingest.orientation import turn_upright
from ingest.probe import EncodedFace, probe_image, strip_metadata
from ingest.reference import crop_face, decode_upright
from ingest.spec import PreprocessSpec, Window
from tests.ingest.formats.heif_files import crop, encode, make_grid, make_picture


def decode_independently(data: bytes) -> np.ndarray:
    """Return the upright pixels by pillow-heif or Pillow, from the original file."""
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


@pytest.mark.parametrize("kind", ["HEIF", "AVIF", "JXL"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pixels_are_those_of_other_decoders(kind: str, orientation: int) -> None:
    """In each of the eight turns the upright pixels are the independent ones; upright, also where the sides are odd.

    libheif turns before it enlarges the chroma: in an odd HEIC that is turned, it pairs other pixels.
    """
    size = (95, 61) if orientation == 1 else (96, 62)
    data = encode(kind, *size, orientation)
    info = probe_image(data)
    upright = decode_upright(data)
    assert info.orientation == orientation
    assert upright.shape[1::-1] == (info.width, info.height)
    lossless = turn_upright(np.asarray(make_picture(*size)), orientation)
    assert np.array_equal(upright, lossless if kind == "JXL" else decode_independently(data))


@pytest.mark.parametrize("kind", ["HEIF", "AVIF", "JXL"])
@pytest.mark.parametrize("orientation", [1, 6, 7])
def test_faces_are_cut_as_by_the_reference(kind: str, orientation: int) -> None:
    """The cropper and the reference differ by at most one grey level, as in other formats."""
    data, window, spec = encode(kind, 95, 61, orientation), Window(9, 11, 41, 37), PreprocessSpec(size=64)
    (cut,) = FaceCropper(spec, 1, 4).crop([EncodedFace(data, probe_image(data), window)])
    assert isinstance(cut, np.ndarray)
    assert np.abs(cut.astype(int) - crop_face(data, window, spec)).max() <= 1


def test_a_grid_is_the_picture_of_its_tiles() -> None:
    """A grid gives the pixels of an independent decoder, and each window the same pixels as the whole."""
    data = make_grid(3, 2, 170, 110)
    bare = strip_heif(data)
    whole = decode_heif(bare)
    assert np.array_equal(whole, decode_independently(data))
    for window in (Window(0, 0, 64, 64), Window(60, 60, 10, 10), Window(120, 3, 50, 107), Window(63, 64, 1, 1)):
        part = whole[window.top :, window.left :][: window.height, : window.width]
        assert np.array_equal(decode_heif(bare, window), part)


@pytest.mark.parametrize("kind", ["HEIF", "AVIF"])
def test_a_crop_shows_a_part(kind: str) -> None:
    """`clap` shows a part of the coded picture; the limits of pixels count all of it."""
    data = encode(kind)
    part = crop(data, Window(7, 5, 64, 48))
    info = probe_image(part)
    assert (info.width, info.height, info.coded_pixels) == (64, 48, 96 * 64)
    assert np.array_equal(decode_upright(part), decode_upright(data)[5:53, 7:71])


@pytest.mark.parametrize("kind", ["HEIF", "AVIF", "JXL"])
def test_metadata_are_read(kind: str) -> None:
    """Make and model come from the EXIF item or box; such a picture has no JPEG quality."""
    data = encode(kind)
    metadata = read_image_metadata(data, probe_image(data))
    assert (metadata.camera, metadata.jpeg_quality) == ("Maker One", None)


@pytest.mark.parametrize("kind", ["HEIF", "AVIF", "JXL"])
def test_a_decoder_gets_no_metadata(kind: str) -> None:
    """The stripped file has the same pixels, and no EXIF."""
    data = encode(kind)
    bare = strip_metadata(data, probe_image(data).media_type)
    assert b"Maker" in data
    assert b"Maker" not in bare
    assert np.array_equal(decode_upright(bare), decode_upright(data))
