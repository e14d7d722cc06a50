"""A JPEG without its upper rows: the same pixels below, and the whole file where that is impossible."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ingest.jpeg_rows import drop_rows_above
from ingest.probe import probe_image, strip_metadata

WIDTH, HEIGHT = 203, 611


def encode(mode: str = "RGB", **options: object) -> bytes:
    """Return noise as a JPEG without metadata."""
    pixels = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, "JPEG", **options)
    return strip_metadata(file.getvalue(), "image/jpeg")


def decode(data: bytes) -> np.ndarray:
    """Return the pixels of a file."""
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image)


@settings(deadline=None, max_examples=40)
@given(
    mode=st.sampled_from(["RGB", "L", "CMYK"]),
    subsampling=st.sampled_from([0, 1, 2]),
    interval=st.sampled_from([{"restart_marker_rows": rows} for rows in (1, 3)])
    | st.sampled_from([{"restart_marker_blocks": blocks} for blocks in (1, 13, 26)]),
    top=st.integers(0, HEIGHT - 1),
)
def test_the_rows_below_are_the_same(mode: str, subsampling: int, interval: dict[str, int], top: int) -> None:
    """From `top` on, the pixels are those of the whole picture, bit for bit, for all intervals and sampling factors."""
    bare = encode(mode, subsampling=subsampling, **interval)
    cut, dropped = drop_rows_above(bare, probe_image(bare), top)
    assert dropped <= top
    np.testing.assert_array_equal(decode(cut)[top - dropped :], decode(bare)[top:])


def test_a_marker_for_each_row_leaves_out_most_rows() -> None:
    """With one marker for each row of 16 pixels, all but at most nine rows of MCUs above are left out."""
    bare = encode(restart_marker_rows=1)
    cut, dropped = drop_rows_above(bare, probe_image(bare), 600)
    assert dropped >= 600 - 10 * 16
    assert len(cut) < 0.5 * len(bare)


def change_marker(bare: bytes) -> bytes:
    """Return the file with a wrong number in its fifth restart marker."""
    return bare.replace(b"\xff\xd4", b"\xff\xd6", 1)


def lose_marker(bare: bytes) -> bytes:
    """Return the file without its third restart interval."""
    start, end = bare.index(b"\xff\xd1"), bare.index(b"\xff\xd2")
    return bare[:start] + bare[end:]


@pytest.mark.parametrize("damage", [change_marker, lose_marker])
def test_a_file_with_wrong_markers_stays_whole(damage: object) -> None:
    """Where markers are missing or out of order, it is unknown which rows follow them."""
    bare = damage(encode(restart_marker_rows=1))
    assert drop_rows_above(bare, probe_image(bare), 600) == (bare, 0)


@pytest.mark.parametrize("options", [{}, {"progressive": True, "restart_marker_rows": 1}])
def test_a_file_without_usable_markers_stays_whole(options: dict[str, object]) -> None:
    """A file without markers and one of several scans are returned as they are."""
    bare = encode(**options)
    assert drop_rows_above(bare, probe_image(bare), 600) == (bare, 0)
