"""JPEG XL's header and boxes: what an encoder wrote is read without decoding, and any other bytes are refused."""

import imagecodecs
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ingest.formats.jxl import JXL, deepen_samples, open_jxl, read_exif_box, read_jxl, strip_jxl
from ingest.probe import probe_image
from ingest.reasons import Unscorable
from tests.ingest.formats.jxl_files import CONTAINER, Fields, encode, wrap, write_box, write_header, write_size

SIDES = st.sampled_from([1, 8, 32, 61, 64, 95, 256, 257, 520])
DEPTHS: dict[int, Fields] = {8: ((0, 3),), 12: ((0, 1), (2, 2)), 16: ((0, 1), (3, 2), (15, 6))}
SHOWN = ((1, 1), (0, 3), (99, 9), (1, 3))  # a size at which to display: a square of 100 pixels
PREVIEW = ((1, 1), (1, 1), (2, 2), (3, 5), (2, 3))  # 32 pixels high, 1.2 times as wide
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
    data = write_header(write_size(width, 31), turned, DEPTHS[bits], EXTRA)
    picture = open_jxl(data)
    assert (picture.width, picture.height, picture.orientation, picture.bits) == (width, 31, orientation, bits)
    assert picture.extra == (1, 0)
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
