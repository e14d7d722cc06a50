"""The reference cropper, checked against Pillow and against results computed by hand."""

import io

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps

from ingest.reasons import Reason, Unscorable
from ingest.reference import crop_face, decode_upright, resize_triangular
from ingest.spec import PreprocessSpec, Window

ORIENTATION = 0x0112


def encode(picture: Image.Image, kind: str, **options: object) -> bytes:
    """Return `picture` as encoded bytes."""
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def make_pixels(width: int, height: int) -> NDArray[np.uint8]:
    """Return reproducible noise (H, W, 3)."""
    return np.random.default_rng(width * height).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_upright_pixels_are_those_of_pillow(kind: str, orientation: int) -> None:
    """All eight EXIF orientations are turned as Pillow's `exif_transpose` turns them."""
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    data = encode(Image.fromarray(make_pixels(60, 40)), kind, exif=exif)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    assert np.array_equal(decode_upright(data), np.asarray(expected))


def test_sixteen_bit_grey_is_scaled() -> None:
    """A 16-bit value v becomes round(v / 257); Pillow alone would clip it at 255."""
    ramp = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
    decoded = decode_upright(encode(Image.fromarray(ramp), "PNG"))
    assert np.array_equal(decoded[:, :, 1], np.rint(ramp / 257).astype(np.uint8))


def test_a_window_of_the_crop_size_is_copied() -> None:
    """A crop of a window of its own size is the window's pixels."""
    pixels = make_pixels(300, 260)
    crop = crop_face(encode(Image.fromarray(pixels), "PNG"), Window(11, 22, 224, 224), PreprocessSpec())
    assert np.array_equal(crop, pixels[22:246, 11:235])


def test_resizing_by_hand() -> None:
    """Four pixels become two, computed by hand: weights 1 3 3 1 over 8, edges repeated."""
    column = np.array([0, 80, 160, 240], np.uint8)
    pixels = np.repeat(np.repeat(column[:, None, None], 4, axis=1), 3, axis=2)
    rows = resize_triangular(pixels, 2)[:, 0, 0]
    # (0 + 3*0 + 3*80 + 160) / 8 and (80 + 3*160 + 3*240 + 240) / 8: the pixel beyond each edge repeats it
    assert rows.tolist() == [50, 190]


def test_resizing_agrees_with_pillow_inside() -> None:
    """Away from edges, where Pillow's weights differ, Pillow's antialiased bilinear filter gives the same."""
    pixels = make_pixels(700, 500)
    pillow = np.asarray(Image.fromarray(pixels).resize((224, 224), Image.Resampling.BILINEAR)).astype(int)
    assert np.abs(resize_triangular(pixels, 224) - pillow)[4:-4, 4:-4].max() <= 1


def test_damage_is_unscorable() -> None:
    """An exception of Pillow on damaged pixels becomes one typed reason."""
    data = bytearray(encode(Image.fromarray(make_pixels(64, 64)), "WEBP", lossless=True))
    data[40:200] = bytes(160)
    with pytest.raises(Unscorable) as refusal:
        decode_upright(bytes(data))
    assert refusal.value.reason is Reason.UNDECODABLE
