"""JPEG XL: the header states what the decoder gives, and a lossless file has the pixels of its PNG."""

import io

import imagecodecs
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ingest.decode_jxl import decode_jxl, list_levels
from ingest.formats.jxl import JXL, deepen_samples, open_jxl, read_exif_box, read_jxl, strip_jxl
from ingest.probe import EncodedFace, probe_image
from ingest.reasons import Unscorable
from ingest.sandbox import Sandbox
from ingest.spec import Window
from tests.ingest.formats.heif_files import make_picture
from tests.ingest.formats.jxl_files import CONTAINER, Fields, encode, wrap, write_box, write_header, write_size

SIDES = st.sampled_from([1, 8, 32, 61, 64, 95, 256, 257, 520])
DEPTHS: dict[int, Fields] = {8: ((0, 3),), 12: ((0, 1), (2, 2)), 16: ((0, 1), (3, 2), (15, 6))}
SHOWN = ((1, 1), (0, 3), (99, 9), (1, 3))  # a size at which to display: a square of 100 pixels
PREVIEW = ((1, 1), (1, 1), (2, 2), (3, 5), (2, 3))  # 32 pixels high, 1.2 times as wide
GREY_PROFILE = ((1, 1), (0, 1), (1, 1), (1, 2))  # lossy, in the colours of an ICC profile
# A channel of depth, 16-bit floating-point, with a name of 19 bytes; then alpha.
EXTRA = ((2, 2), (0, 4), (0, 1), (1, 2), (1, 1), (1, 2), (4, 4), (0, 2), (2, 2), (3, 5), *[(65, 8)] * 19, (1, 1))


@given(st.tuples(SIDES, SIDES, st.integers(1, 4)), st.sampled_from([5, 8, 10, 16]), st.sampled_from([90, 101]))
def test_a_header_states_what_the_decoder_gives(shape: tuple[int, int, int], bits: int, level: int) -> None:
    """Size, bits, grey and alpha are those of the decoded picture, lossy or not, for each form of a size."""
    height, width, channels = shape
    pixels = np.full((height, width, channels), 3, np.uint8 if bits <= 8 else np.uint16)
    data = encode(pixels[:, :, 0] if channels == 1 else pixels, level=level, bitspersample=bits)
    picture = open_jxl(data)
    assert (picture.height, picture.width) == imagecodecs.jpegxl_decode(data, index=0).shape[:2] == (height, width)
    assert (picture.bits, picture.is_grey, len(picture.extra)) == (bits, channels < 3, 1 - channels % 2)
    assert not picture.is_linear


@given(st.integers(1, 512), st.integers(1, 8), st.sampled_from(sorted(DEPTHS)))
def test_every_field_of_a_header_is_read(width: int, orientation: int, bits: int) -> None:
    """What stands behind a displayed size, a preview and a named channel is read from the right bits."""
    turned = ((orientation - 1, 3), *SHOWN, *PREVIEW, (0, 1))
    data = write_header(write_size(width, 31), turned, DEPTHS[bits], EXTRA, GREY_PROFILE)
    picture = open_jxl(data)
    assert (picture.width, picture.height, picture.orientation, picture.bits) == (width, 31, orientation, bits)
    assert (picture.extra, picture.is_grey, picture.is_linear) == ((1, 0), True, True)
    assert open_jxl(deepen_samples(data, picture)).bits == max(bits, 12)


def test_a_codestream_in_parts_is_one() -> None:
    """A container gives the codestream of its box, or of its parts in order, and EXIF from the TIFF header on."""
    bare = encode(np.zeros((40, 50, 3), np.uint8))
    exif = write_box(b"Exif", b"\0\0\0\2--II*\0")
    parts = b"\0\0\0\0" + bare[:9], b"\0\0\0\1", b"\x80\0\0\2" + bare[9:]
    for data in (wrap(bare, exif), CONTAINER + b"".join(write_box(b"jxlp", part) for part in parts) + exif):
        assert strip_jxl(data) == bare
        assert read_exif_box(data) == b"II*\0"
        assert probe_image(data).media_type == JXL


@given(st.binary(max_size=200), st.sampled_from([b"\xff\x0a", CONTAINER, CONTAINER + b"\0\0\0\0jxlc\xff\x0a"]))
def test_any_bytes_are_a_picture_or_refused(tail: bytes, head: bytes) -> None:
    """Whatever follows a signature, nothing but a refusal is raised."""
    try:
        header = read_jxl(head + tail)
    except Unscorable:
        return
    assert min(header.width, header.height, header.pixel_bytes) > 0


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
    assert np.diff(list_levels(12, linear=True).astype(int)).max() == 1
    assert list_levels(16, linear=True)[[0, 205, 14_027, 65_535]].tolist() == [0, 10, 127, 255]  # IEC 61966-2-1
