"""Files of arrays: what is written is read, and damage or a bomb is refused."""

import io
import tracemalloc
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from ingest.network_files import MAX_UNPACKING_BYTES
from scorer.bundle.arrays import ArraySpec, InvalidArrays, read_arrays, write_arrays

HALVES_SHAPE = (300, 200)


def write(**content: np.ndarray) -> bytes:
    """Return a file of arrays."""
    file = io.BytesIO()
    write_arrays(file, content)
    return file.getvalue()


@pytest.fixture
def packed() -> bytes:
    """A file of one array, which is longer than the part that its header is read from."""
    values = np.random.default_rng(0).standard_normal(HALVES_SHAPE)
    return write(values=values.astype(np.float16))


def read(data: bytes) -> np.ndarray:
    """Return the array of `packed`."""
    return read_arrays(data, {"values": ArraySpec("f", (HALVES_SHAPE,))})["values"]


@given(
    arrays(np.dtype("<f4"), array_shapes(min_dims=0, min_side=0), elements=st.floats(-9, 9, width=32)),
    arrays(np.dtype("<u1"), st.integers(0, 20_000)),
)
def test_written_arrays_are_read(first: np.ndarray, second: np.ndarray) -> None:
    """The project's reader and NumPy's return what was written; the file has no date."""
    data = write(first=first, second=second)
    found = read_arrays(data, {"first": ArraySpec("f", (first.shape,)), "second": ArraySpec("u", ((None,),))})
    with np.load(io.BytesIO(data), allow_pickle=False) as archive:
        for name, wanted in {"first": first, "second": second}.items():
            np.testing.assert_array_equal(found[name], wanted)
            np.testing.assert_array_equal(archive[name], wanted)
    assert {info.date_time for info in zipfile.ZipFile(io.BytesIO(data)).infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_a_changed_byte_is_found(packed: bytes) -> None:
    """A change of the compressed numbers is refused, by the zip's checksum."""
    read(packed)
    for offset in range(200, len(packed) - 200, len(packed) // 50):
        with pytest.raises(InvalidArrays):
            read(packed[:offset] + bytes([packed[offset] ^ 4]) + packed[offset + 1 :])


def test_a_large_dictionary_is_refused(packed: bytes) -> None:
    """LZMA states how much memory its reader needs; more than the limit is not allocated."""
    (info,) = zipfile.ZipFile(io.BytesIO(packed)).infolist()
    start = packed.index(b"\x5d\0\0\x80\0")  # LZMA's default settings and its dictionary of 8 MiB
    large = packed[: start + 1] + (2 * MAX_UNPACKING_BYTES).to_bytes(4, "little") + packed[start + 5 :]
    assert info.compress_type == zipfile.ZIP_LZMA
    with pytest.raises(InvalidArrays, match="Memory usage limit exceeded"):
        read(large)


def test_a_bomb_is_not_unpacked(packed: bytes) -> None:
    """A member that is too long takes the memory of its array and of the dictionary."""
    with zipfile.ZipFile(io.BytesIO(packed)) as archive:
        plain = archive.read("values.npy")
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("values.npy", plain + bytes(2**27))
    tracemalloc.start()
    try:
        with pytest.raises(InvalidArrays, match="does not have the 120000 bytes that it states"):
            read(file.getvalue())
        assert tracemalloc.get_traced_memory()[1] < MAX_UNPACKING_BYTES
    finally:
        tracemalloc.stop()


def test_other_compression_is_refused() -> None:
    """Bzip2, which zipfile unpacks without a limit, is refused."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("values.npy", b"")
    with pytest.raises(InvalidArrays, match="another method than deflate and LZMA"):
        read(file.getvalue())


def test_a_member_that_is_no_lzma_is_refused(packed: bytes) -> None:
    """Noise in place of the compressed bytes is refused with LZMA's reason."""
    start = packed.index(b"\x5d\0\0\x80\0")
    with pytest.raises(InvalidArrays):
        read(packed[:start] + b"\xff" * 40 + packed[start + 40 :])
