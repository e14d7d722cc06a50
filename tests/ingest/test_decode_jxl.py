"""JPEG XL: a lossless file gives what its PNG gives, in every turn and form."""

import io

import numpy as np
import pytest
from PIL import Image

from ingest.decode_jxl import decode_jxl
from ingest.formats.jxl import deepen_samples, open_jxl
from ingest.image_metadata import read_image_metadata
from ingest.orientation import turn_upright
from ingest.probe import EncodedFace, probe_image
from ingest.reference import decode_upright
from ingest.sandbox import Sandbox
from ingest.spec import Window
from tests.ingest.formats.heif_files import make_picture
from tests.ingest.formats.jxl_files import encode, turn, wrap, write_box

PIXELS = np.asarray(make_picture(95, 61))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_codestream_decides_the_orientation(orientation: int) -> None:
    """In each of the eight turns the pixels are upright, whatever EXIF states; make and model are EXIF's."""
    exif = Image.Exif()
    exif[0x0112], exif[0x010F], exif[0x0110] = 9 - orientation, "Maker", "Maker One"
    box = write_box(b"Exif", bytes(4) + exif.tobytes().removeprefix(b"Exif\0\0"))
    bare = turn(encode(PIXELS), (95, 61), orientation)
    for data in (bare, wrap(bare, box)):
        info = probe_image(data)
        assert info.orientation == orientation
        assert (info.width, info.height) == ((61, 95) if orientation > 4 else (95, 61))
        assert np.array_equal(decode_upright(data), turn_upright(PIXELS, orientation))
        assert read_image_metadata(data, info).camera == ("" if data is bare else "Maker One")


def test_boxes_and_crops_are_those_of_a_png(sandbox: Sandbox, portrait: bytes) -> None:
    """A lossless file has the faces and the crops of the PNG, bit for bit."""
    pixels = np.asarray(Image.open(io.BytesIO(portrait)).convert("RGB"))
    png = io.BytesIO()
    Image.fromarray(pixels).save(png, "PNG")
    files = [(data, probe_image(data)) for data in (png.getvalue(), encode(pixels))]
    faces, same = (sandbox.detect(data, info) for data, info in files)
    assert same == faces != []
    window = Window(*(int(side) for side in faces[0].box.as_tuple()))
    crops = [crop for face in files for _, crop in sandbox.crop([EncodedFace(*face, window)])]
    assert np.array_equal(*crops)


@pytest.mark.parametrize("bits", [5, 8, 10, 16])
@pytest.mark.parametrize("form", ["grey", "grey alpha", "planes", "colour", "colour alpha"])
def test_samples_of_every_form_become_8_bits(bits: int, form: str) -> None:
    """Samples are rounded to 8 bits; alpha and other channels are dropped."""
    deep = np.random.default_rng(bits).integers(0, 1 << bits, (61, 95, 4)).astype(np.uint8 if bits <= 8 else np.uint16)
    shown, options = {
        "grey": (deep[..., 0], {}),
        "grey alpha": (deep[..., :2], {}),
        "planes": (np.ascontiguousarray(deep.transpose(2, 0, 1)), {"planar": True}),
        "colour": (deep[..., :3], {}),
        "colour alpha": (deep, {}),
    }[form]
    colours = deep[..., :3] if "colour" in form else np.repeat(deep[..., :1], 3, axis=2)
    decoded = decode_jxl(encode(shown, bitspersample=bits, **options))
    assert np.array_equal(decoded, np.rint(colours * (255 / ((1 << bits) - 1))))


def test_the_stated_depth_of_a_lossy_picture_is_not_that_of_its_codes() -> None:
    """A lossy picture whose header is changed to 12 bits gives the same colours: so linear light has enough levels."""
    data = encode(PIXELS[..., 0], lossless=False)  # a header that is all defaults states no depth
    deeper, bits = deepen_samples(data, open_jxl(data))
    assert (bits, len(deeper)) == (12, len(data))
    assert np.abs(decode_jxl(deeper).astype(int) - decode_jxl(data)).max() <= 1
