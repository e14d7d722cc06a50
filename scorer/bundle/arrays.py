"""Arrays of an `.npz` file: the stated type and shape are checked before memory is allocated; never a pickle."""

import io
import lzma
import math
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.lib import format as npy
from numpy.typing import ArrayLike, NDArray

from ingest.network_files import MAX_UNPACKING_BYTES

# The end record of a zip: signature, disks and counts, size and offset of the directory, length of the comment.
_END = struct.Struct("<4s4HIIH")
_MAX_DIRECTORY_BYTES = 16_384
_MAX_HEADER_BYTES = 16_384  # of an array's header; NumPy writes 128
# What zipfile and NumPy raise on damaged bytes.
_DAMAGED = (
    ValueError,
    KeyError,
    OSError,
    EOFError,
    NotImplementedError,
    RuntimeError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
)
_HEADER_BYTES = 30  # of a member, before its name
_NAME_LENGTHS = struct.Struct("<HH")  # its last bytes: of the name and of the extra field behind it
Shape = tuple[int | None, ...]


@dataclass(frozen=True, slots=True)
class ArraySpec:
    """The requirements on an array.

    Attributes:
        kind: of its numbers, as in NumPy's `dtype.kind`: `f`, `i` or `u`.
        shapes: the allowed shapes; a side that is None may have any length.
        max_bytes: of its numbers.
    """

    kind: str
    shapes: tuple[Shape, ...]
    max_bytes: int = 2**26

    def find_problem(self, dtype: np.dtype[Any], shape: tuple[int, ...]) -> str:
        """Return what is wrong with an array of this type and shape; an empty text if nothing is."""
        if dtype.kind not in self.kind:
            return f"has the type {dtype}"
        if not any(_fits(shape, wanted) for wanted in self.shapes):
            return f"has the shape {shape}, not {' or '.join(map(_describe, self.shapes))}"
        size = math.prod(shape) * dtype.itemsize
        return f"states {size} bytes, over the limit of {self.max_bytes}" if size > self.max_bytes else ""


class InvalidArrays(ValueError):
    """The bytes are not an archive of the expected arrays; the message, without the file's name, states why."""


def read_arrays(data: bytes, wanted: Mapping[str, ArraySpec]) -> dict[str, NDArray[Any]]:
    """Return the arrays of an `.npz` file that `wanted` names, in the byte order of this machine.

    An array is decompressed only if its stated size is allowed, and only up to that size.

    Raises:
        InvalidArrays: it is no such archive or lacks an array; or an array contains Python objects or a number that is
            not finite, or has another type or shape.
    """
    _require_short_directory(data)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return {name: _read_array(archive, data, name, each) for name, each in wanted.items()}
    except InvalidArrays:
        raise
    except _DAMAGED as error:
        message = f"it does not contain the plain arrays {', '.join(wanted)}: {error}"
        raise InvalidArrays(message) from error


def _require_short_directory(data: bytes) -> None:
    """Refuse a zip whose directory would fill the memory; NumPy writes few members and no comment."""
    end = data[-_END.size :]
    signature, size = _END.unpack(end)[::5] if len(end) == _END.size else (b"", 0)
    if signature != b"PK\5\6" or size > _MAX_DIRECTORY_BYTES or data[-_END.size - 20 :].startswith(b"PK\6\7"):
        message = "it does not contain plain arrays: it is not a zip of few members as NumPy writes it"
        raise InvalidArrays(message)


def write_arrays(file: Path | BinaryIO, arrays: Mapping[str, ArrayLike]) -> None:
    """Write arrays as an `.npz` file, which NumPy reads too; LZMA is a sixth smaller than NumPy's own compression."""
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            member = io.BytesIO()
            npy.write_array(member, np.asanyarray(array), allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), member.getbuffer(), zipfile.ZIP_LZMA)  # without a date


def _read_array(archive: zipfile.ZipFile, data: bytes, name: str, wanted: ArraySpec) -> NDArray[Any]:
    read = _open_member(archive, data, f"{name}.npy")
    header = io.BytesIO(read(_MAX_HEADER_BYTES))
    version = npy.read_magic(header)
    if version not in {(1, 0), (2, 0)}:
        message = f"array {name} has the format {version[0]}.{version[1]}"
        raise InvalidArrays(message)
    read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, fortran, dtype = read_header(header)
    if problem := wanted.find_problem(dtype, shape):
        message = f"array {name} {problem}"
        raise InvalidArrays(message)
    size = math.prod(shape) * dtype.itemsize
    start = header.read()
    numbers = start + read(max(0, size + 1 - len(start)))  # one byte more detects a longer array
    if len(numbers) != size:
        message = f"array {name} does not have the {size} bytes that it states"
        raise InvalidArrays(message)
    array = np.frombuffer(numbers, dtype).reshape(shape, order="F" if fortran else "C")
    array = np.ascontiguousarray(array.astype(dtype.newbyteorder("="), copy=False))
    if dtype.kind == "f" and not np.isfinite(array).all():
        message = f"array {name} contains a number that is not finite"
        raise InvalidArrays(message)
    return array


def _open_member(archive: zipfile.ZipFile, data: bytes, name: str) -> Callable[[int], bytes]:
    """Return a function that reads at most so many further bytes of a member of the archive in `data`."""
    info = archive.getinfo(name)
    if info.compress_type == zipfile.ZIP_LZMA:
        return _LzmaMember(data, info).read
    if info.compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:  # zipfile sets other methods no limit
        message = f"{name} is compressed by another method than deflate and LZMA"
        raise InvalidArrays(message)
    return archive.open(info).read


class _LzmaMember:
    """A member that is compressed by LZMA; zipfile would decompress it without a limit of memory."""

    def __init__(self, data: bytes, info: zipfile.ZipInfo) -> None:
        start = info.header_offset + _HEADER_BYTES
        start += sum(_NAME_LENGTHS.unpack_from(data, start - _NAME_LENGTHS.size))
        packed = data[start : start + info.compress_size]
        # A zip stores LZMA's five bytes of properties at byte 4. In a `.lzma` file they come first, then the size of
        # the content: here unknown.
        self._packed = packed[4:9] + b"\xff" * 8 + packed[9:]
        self._stream = lzma.LZMADecompressor(lzma.FORMAT_ALONE, memlimit=MAX_UNPACKING_BYTES)
        self._checksum, self._wanted = 0, info.CRC

    def read(self, size: int) -> bytes:
        """Return at most `size` further bytes, none at the end.

        Raises:
            lzma.LZMAError: the member is damaged or needs too much memory.
            zipfile.BadZipFile: the whole member does not have its checksum.
        """
        packed, self._packed = self._packed, b""
        content = b"" if self._stream.eof else self._stream.decompress(packed, size)
        self._checksum = zlib.crc32(content, self._checksum)
        if self._stream.eof and self._checksum != self._wanted:
            message = "its checksum is wrong"
            raise zipfile.BadZipFile(message)
        return content


def _fits(shape: tuple[int, ...], wanted: Shape) -> bool:
    return len(shape) == len(wanted) and all(
        side >= 0 and expected in (None, side) for side, expected in zip(shape, wanted, strict=True)
    )


def _describe(shape: Shape) -> str:
    return "(" + ", ".join("any" if side is None else str(side) for side in shape) + ")"
