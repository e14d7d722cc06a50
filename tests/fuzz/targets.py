"""The targets of the fuzzer: every parser of untrusted bytes, and the laws that hold for any bytes."""

import atexit
import io
import resource
import tempfile
import time
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from ingest.decode import decode_reduced
from ingest.formats import jpeg
from ingest.formats.header import read_orientation
from ingest.formats.jxl import JXL
from ingest.image_metadata import MAX_WORD_CHARACTERS, read_image_metadata
from ingest.probe import Limits, probe_image, strip_metadata
from ingest.reasons import Unscorable
from scorer.bundle.arrays import ArraySpec, InvalidArrays, read_arrays, write_arrays
from scorer.bundle.bundle import MANIFEST, read_bundle
from scorer.errors import BundleMismatch
from scorer.schemas import EXAMPLE_INLINE_REQUEST, EXAMPLE_REQUEST
from scorer.stream.broker import Record
from scorer.stream.codec import InvalidRecord, parse_request
from tests.ingest.formats.jxl_files import encode, turn, wrap, write_box

CPU_S = 2.0
MEMORY_KIB = 256 << 10  # beyond the peak before the call
LIMITS = Limits(max_pixels=250_000)
_STARTER = Path(__file__).resolve().parents[2] / "model_repository" / MANIFEST
_MAX_JSON_BYTES = 1 << 16
_ARRAYS = {"means": ArraySpec("f", ((None, 2),), 4096), "counts": ArraySpec("iu", ((None,), (2, 3)), 4096)}


def check(name: str, data: bytes) -> None:
    """Run a target; an undocumented exception and too much CPU time or memory are failures."""
    started_s, peak_kib = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    TARGETS[name](data)
    assert time.process_time() - started_s < CPU_S
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak_kib < MEMORY_KIB


def fuzz_image(data: bytes) -> None:
    """An accepted image has the same size without its metadata, and is decoded or refused."""
    try:
        info = probe_image(data, LIMITS)
    except Unscorable:
        return
    bare = strip_metadata(data, info.media_type)
    again = probe_image(bare, LIMITS)
    assert (again.media_type, again.stored_size) == (info.media_type, info.stored_size)
    assert again.orientation == (info.orientation if info.media_type == JXL else 1)
    assert again.ended
    assert strip_metadata(bare, info.media_type) == bare
    if info.media_type == "image/jpeg":
        assert jpeg.edit_scans(bare, lambda scan: scan) == bare
        assert jpeg.find_restarts(bare)[0] >= 0
    read_image_metadata(data, info)
    try:
        pixels, _ = decode_reduced(bare, info, 1.0)
    except Unscorable:
        return
    assert pixels.shape == (*info.stored_size[::-1], 3)


def fuzz_exif(data: bytes) -> None:
    """With any EXIF block, a photograph is accepted, and the values that are read are short and printable."""
    assert 1 <= read_orientation(data) <= 8
    for put in (_put_in_jpeg, _put_in_png, _put_in_webp):
        image = put(data[:65_000])
        info = probe_image(image)
        metadata = read_image_metadata(image, info)
        assert info.width == info.height == 32
        assert metadata.camera.isprintable()
        assert len(metadata.camera) <= 2 * MAX_WORD_CHARACTERS + 1


def fuzz_request(data: bytes) -> None:
    """A record's value is invalid, or a request that is equal after it is written and read again."""
    try:
        request = parse_request(_record(data), 1 << 20, _MAX_JSON_BYTES)
    except InvalidRecord as refusal:
        _require_sentence(refusal)
        return
    again = request.model_dump_json(by_alias=True).encode()
    assert parse_request(_record(again), 1 << 24, 1 << 24) == request


def fuzz_manifest(data: bytes) -> None:
    """A folder that contains only these bytes as its manifest is refused in one sentence."""
    (_FOLDER / MANIFEST).write_bytes(data)
    try:
        read_bundle(_FOLDER)
    except BundleMismatch as refusal:
        _require_sentence(refusal)
        return
    message = "a bundle without files was read"
    raise AssertionError(message)


def fuzz_arrays(data: bytes) -> None:
    """Arrays have the requested type, shape and size, and are finite."""
    try:
        arrays = read_arrays(data, _ARRAYS)
    except InvalidArrays:
        return
    for name, array in arrays.items():
        assert not _ARRAYS[name].find_problem(array.dtype, array.shape)
        assert np.isfinite(array).all()


def _require_sentence(refusal: Exception) -> None:
    assert 10 < len(str(refusal)) < 4096


TARGETS: dict[str, Callable[[bytes], None]] = {
    "image": fuzz_image,
    "exif": fuzz_exif,
    "request": fuzz_request,
    "manifest": fuzz_manifest,
    "arrays": fuzz_arrays,
}


@cache
def make_seeds(name: str) -> list[bytes]:
    """Return valid inputs of a target."""
    return {
        "image": _make_images,
        "exif": lambda: [_make_exif(order) for order in "<>"],
        "request": lambda: [
            each.model_dump_json(by_alias=True).encode() for each in (EXAMPLE_REQUEST, EXAMPLE_INLINE_REQUEST)
        ],
        "manifest": lambda: [_STARTER.read_bytes()],
        "arrays": lambda: [*map(_make_arrays, (np.savez, np.savez_compressed, _write_arrays))],
    }[name]()


def _make_images() -> list[bytes]:
    exif = _make_exif("<")
    return [
        _encode("JPEG", exif=exif),
        _encode("JPEG", progressive=True, restart_marker_blocks=1),
        _encode("JPEG", "CMYK", icc_profile=bytes(9)),
        _encode("JPEG", "L", comment=b"c", subsampling=0),
        _encode("PNG", exif=exif),
        _encode("PNG", "P", transparency=0),
        _encode("PNG", "I;16"),
        _encode("WEBP", exif=exif),
        _encode("WEBP", "RGBA", lossless=True),
        _encode("GIF"),
        wrap(turn(encode(np.zeros((32, 40, 3), np.uint8)), 6), write_box(b"Exif", bytes(4) + exif)),
    ]


def _encode(kind: str, mode: str = "RGB", **options: object) -> bytes:
    picture = Image.linear_gradient("L").resize((32, 32))
    buffer = io.BytesIO()
    (picture if mode == "I;16" else picture.convert("RGB")).convert(mode).save(buffer, kind, **options)
    return buffer.getvalue()


def _make_exif(order: str) -> bytes:
    exif = Image.Exif()
    exif.endian = order
    exif.update({0x0112: 6, 0x010F: "NIKON CORPORATION", 0x0110: "NIKON D90", 0x8769: {0xA002: 32, 0xA003: 32}})
    return exif.tobytes()


def _make_arrays(save: Callable[..., None]) -> bytes:
    buffer = io.BytesIO()
    save(buffer, means=np.ones((3, 2), np.float32), counts=np.arange(6, dtype=np.int64).reshape(2, 3))
    return buffer.getvalue()


def _write_arrays(file: io.BytesIO, **arrays: np.ndarray) -> None:
    write_arrays(file, arrays)


def _put_in_jpeg(exif: bytes) -> bytes:
    body = b"Exif\0\0" + exif
    return _JPEG[:2] + b"\xff\xe1" + (len(body) + 2).to_bytes(2, "big") + body + _JPEG[2:]


def _put_in_png(exif: bytes) -> bytes:
    chunk = len(exif).to_bytes(4, "big") + b"eXIf" + exif + zlib.crc32(b"eXIf" + exif).to_bytes(4, "big")
    return _PNG[:33] + chunk + _PNG[33:]  # a signature and IHDR take 33 bytes


def _put_in_webp(exif: bytes) -> bytes:
    chunks = _WEBP[8:] + b"EXIF" + len(exif).to_bytes(4, "little") + exif + b"\0" * (len(exif) % 2)
    return b"RIFF" + len(chunks).to_bytes(4, "little") + chunks


def _record(value: bytes) -> Record:
    return Record("requests", 0, 0, 0, None, value)


_JPEG, _PNG, _WEBP = _encode("JPEG"), _encode("PNG"), _encode("WEBP")
_TEMPORARY = tempfile.TemporaryDirectory(prefix="unlensed-fuzz-")
_FOLDER = Path(_TEMPORARY.name)
atexit.register(_TEMPORARY.cleanup)
