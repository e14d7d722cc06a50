"""Arrays out of an `.npz`, each judged by its stated type and shape before memory is taken for it; never a pickle."""

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

_END = struct.Struct("<4s4HIIH")  # of a zip: signature, disks and counts, the directory's size and place, a comment's
_MAX_DIRECTORY_BYTES = 16_384
_MAX_HEADER_BYTES = 16_384  # of an array's own header; NumPy writes 128
# What a zip's directory and NumPy's header raise when their bytes are not what they should be.
_DAMAGE = (ValueError, KeyError, OSError, EOFError, NotImplementedError, RuntimeError, zipfile.BadZipFile, zlib.error)
Shape = tuple[int | None, ...]


@dataclass(frozen=True, slots=True)
class ArraySpec:
    """An array that is looked for.

    Attributes:
        kind: of its numbers, as NumPy's `dtype.kind` says: `f`, `i` or `u`.
        shapes: that it may have; a side that is None may be anything.
        max_bytes: of its numbers.
    """

    kind: str
    shapes: tuple[Shape, ...]
    max_bytes: int = 2**26

    def judge(self, dtype: np.dtype[Any], shape: tuple[int, ...]) -> str:
        """Return what is wrong with an array of this type and shape, or nothing."""
        if dtype.kind not in self.kind:
            return f"has the type {dtype}"
        if not any(_fits(shape, wanted) for wanted in self.shapes):
            return f"has the shape {shape}, not {' or '.join(map(_describe, self.shapes))}"
        size = math.prod(shape) * dtype.itemsize
        return f"states {size} bytes, over the limit of {self.max_bytes}" if size > self.max_bytes else ""


class InvalidArrays(ValueError):
    """The bytes are no archive of the arrays that are looked for; the sentence begins in the middle and says why."""


def read_arrays(data: bytes, wanted: Mapping[str, ArraySpec]) -> dict[str, NDArray[Any]]:
    """Return the wanted arrays of an `.npz`, in this machine's byte order.

    Nothing is inflated before the sizes that the archive states fit what is wanted, and no more than that afterwards.

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
    except _DAMAGE as error:
        message = f"it does not hold the plain arrays {', '.join(wanted)}: {error}"
        raise InvalidArrays(message) from error


def _require_short_directory(data: bytes) -> None:
    """Refuse a zip whose directory would fill the memory; NumPy writes no comment, and few members."""
    end = data[-_END.size :]
    signature, size = _END.unpack(end)[::5] if len(end) == _END.size else (b"", 0)
    if signature != b"PK\5\6" or size > _MAX_DIRECTORY_BYTES or data[-_END.size - 20 :].startswith(b"PK\6\7"):
        message = "it does not hold plain arrays: it is no zip of few members as NumPy writes it"
        raise InvalidArrays(message)


def _read_array(archive: zipfile.ZipFile, name: str, wanted: ArraySpec) -> NDArray[Any]:
    info = archive.getinfo(f"{name}.npy")
    if info.compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:  # others take memory as they please
        message = f"array {name} is compressed otherwise than NumPy does it"
        raise InvalidArrays(message)
    with archive.open(info) as member:
        header = io.BytesIO(member.read(_MAX_HEADER_BYTES))
        version = npy.read_magic(header)
        if version not in {(1, 0), (2, 0)}:
            message = f"array {name} is of the format {version[0]}.{version[1]}"
            raise InvalidArrays(message)
        read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, fortran, dtype = read_header(header)
        if problem := wanted.judge(dtype, shape):
            message = f"array {name} {problem}"
            raise InvalidArrays(message)
        size = math.prod(shape) * dtype.itemsize
        begun = header.read()
        numbers = begun + member.read(max(0, size + 1 - len(begun)))  # one more shows what is too long
    if len(numbers) != size:
        message = f"array {name} is not the {size} bytes that it states"
        raise InvalidArrays(message)
    array = np.frombuffer(numbers, dtype).reshape(shape, order="F" if fortran else "C")
    array = np.ascontiguousarray(array.astype(dtype.newbyteorder("="), copy=False))
    if dtype.kind == "f" and not np.isfinite(array).all():
        message = f"array {name} holds a number that is not finite"
        raise InvalidArrays(message)
    return array


def _fits(shape: tuple[int, ...], wanted: Shape) -> bool:
    return len(shape) == len(wanted) and all(
        side >= 0 and expected in (None, side) for side, expected in zip(shape, wanted, strict=True)
    )


def _describe(shape: Shape) -> str:
    return "(" + ", ".join("any" if side is None else str(side) for side in shape) + ")"
