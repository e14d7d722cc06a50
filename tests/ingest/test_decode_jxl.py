"""JPEG XL: a lossless file gives what its PNG gives, in every form of samples."""

import io

import numpy as np
import pytest
from PIL import Image

from ingest.decode_jxl import decode_jxl
from ingest.formats.jxl import deepen_samples, open_jxl
from ingest.probe import EncodedFace, probe_image
from ingest.sandbox import Sandbox
from ingest.spec import Window
from tests.ingest.formats.heif_files import make_picture
from tests.ingest.formats.jxl_files import encode


def test_boxes_and_crops_are_those_of_a_png(sandbox: Sandbox, portrait: bytes) -> None:
    """A lossless file has the faces and the crops of the PNG, bit for bit."""
    picture = Image.open(io.BytesIO(portrait)).convert("RGB")
    files = [(data, probe_image(data)) for data in (portrait, encode(picture))]
    faces, same = (sandbox.detect(data, info) for data, info in files)
    assert same == faces != []
    window = Window(*(int(side) for side in faces[0].box.as_tuple()))
    assert np.array_equal(*(crop for face in files for _, crop in sandbox.crop([EncodedFace(*face, window)])))


@pytest.mark.parametrize("bits", [5, 8, 10, 16])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("planar", [False, True])
def test_samples_of_every_form_become_8_bits(bits: int, channels: int, planar: bool) -> None:  # noqa: FBT001 - parametrized
    """Samples are rounded to 8 bits; alpha and other channels are dropped."""
    kind = np.uint8 if bits <= 8 else np.uint16
    deep = np.random.default_rng(bits).integers(0, 1 << bits, (61, 95, channels)).astype(kind)
    shown = deep.transpose(2, 0, 1) if planar else deep if channels > 1 else deep[..., 0]
    colours = np.broadcast_to(deep[..., :1] if planar or channels < 3 else deep[..., :3], (61, 95, 3))
    decoded = decode_jxl(encode(shown, bitspersample=bits, planar=planar))
    assert np.array_equal(decoded, np.rint(colours * (255 / ((1 << bits) - 1))))


def test_the_stated_depth_of_a_lossy_picture_is_not_that_of_its_codes() -> None:
    """A lossy picture whose header is changed to 12 bits gives the same colours: so linear light has enough levels."""
    data = encode(make_picture().convert("L"), lossless=False)
    deeper = deepen_samples(data, open_jxl(data))
    assert open_jxl(deeper) == open_jxl(data)._replace(bits=12)
    assert np.abs(decode_jxl(deeper).astype(int) - decode_jxl(data)).max() <= 1
