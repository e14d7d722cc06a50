"""Arrays of an `.npz` file: the stated type and shape are checked before memory is allocated; never a pickle."""

import io
import math
import struct
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

# The end record of a zip: signature, disks and counts, size and offset of the directory, length of the comment.
_END = struct.Struct("<4s4HIIH")
_MAX_DIRECTORY_BYTES = 16_384
_MAX_HEADER_BYTES = 16_384  # of an array's header; NumPy writes 128
# What zipfile and NumPy raise on damaged bytes.
_DAMAGED = (ValueError, KeyError, OSError, EOFError, NotImplementedError, RuntimeError, zipfile.BadZipFile, zlib.error)
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
            return {name: _read_array(archive, name, each) for name, each in wanted.items()}
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


def _read_array(archive: zipfile.ZipFile, name: str, wanted: ArraySpec) -> NDArray[Any]:
    info = archive.getinfo(f"{name}.npy")
    if info.compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:  # other methods allocate unlimited memory
        message = f"array {name} is compressed by a method that NumPy does not use"
        raise InvalidArrays(message)
    with archive.open(info) as member:
        header = io.BytesIO(member.read(_MAX_HEADER_BYTES))
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
        numbers = start + member.read(max(0, size + 1 - len(start)))  # one byte more detects a longer array
    if len(numbers) != size:
        message = f"array {name} does not have the {size} bytes that it states"
        raise InvalidArrays(message)
    array = np.frombuffer(numbers, dtype).reshape(shape, order="F" if fortran else "C")
    array = np.ascontiguousarray(array.astype(dtype.newbyteorder("="), copy=False))
    if dtype.kind == "f" and not np.isfinite(array).all():
        message = f"array {name} contains a number that is not finite"
        raise InvalidArrays(message)
    return array


def _fits(shape: tuple[int, ...], wanted: Shape) -> bool:
    return len(shape) == len(wanted) and all(
        side >= 0 and expected in (None, side) for side, expected in zip(shape, wanted, strict=True)
    )


def _describe(shape: Shape) -> str:
    return "(" + ", ".join("any" if side is None else str(side) for side in shape) + ")"
