"""Hostile files, made in code: each is refused with its reason, within two seconds of CPU time."""

import io
import struct
import time
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from ingest.dali import FaceCropper
from ingest.detect import FaceDetector
from ingest.probe import DEFAULT_LIMITS, EncodedFace, probe_image, strip_metadata
from ingest.reasons import Reason, Unscorable
from ingest.spec import PreprocessSpec, Window

CPU_S = 2.0  # the most that a refusal may cost
PICTURE = Image.fromarray(np.random.default_rng(3).integers(0, 256, (80, 96, 3), dtype=np.uint8))
PNG_MAGIC = b"\x89PNG\r\n\x1a\n"


def encode(kind: str, **options: object) -> bytes:
    """Return the test picture as encoded bytes."""
    buffer = io.BytesIO()
    PICTURE.save(buffer, kind, **options)
    return buffer.getvalue()


def make_frame(width: int, height: int, marker: int = 0xC0, bits: int = 8, channels: int = 3) -> bytes:
    """Return a JPEG start-of-frame segment."""
    body = struct.pack(">BHHB", bits, height, width, channels) + b"".join(bytes([i, 0x11, 0]) for i in range(channels))
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


SCAN = b"\xff\xda\0\x0c\x03\0\0\x01\x11\x02\x11\0\x3f\0"
END = b"\xff\xd9"


def make_jpeg(*segments: bytes) -> bytes:
    """Return a JPEG of the given segments, an empty scan and an end marker."""
    return b"\xff\xd8" + b"".join(segments) + SCAN + END


def make_chunk(kind: bytes, body: bytes = b"") -> bytes:
    """Return a PNG chunk with its checksum."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def make_png_header(width: int, height: int, depth: int = 8, colour: int = 2) -> bytes:
    """Return a PNG's first bytes."""
    return PNG_MAGIC + make_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))


def make_webp(kind: bytes, body: bytes) -> bytes:
    """Return a WebP file of one chunk."""
    chunk = kind + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2)
    return b"RIFF" + struct.pack("<I", len(chunk) + 4) + b"WEBP" + chunk


def make_lossless_header(width: int, height: int) -> bytes:
    """Return the first five bytes of a VP8L stream."""
    return b"\x2f" + struct.pack("<I", (width - 1) | (height - 1) << 14)


def repeat_last_scan(times: int) -> bytes:
    """Return a progressive JPEG that repeats its last scan."""
    data = encode("JPEG", progressive=True)
    return data[:-2] + data[data.rindex(b"\xff\xda") : -2] * times + END


def animate(kind: str) -> bytes:
    """Return two different frames in one file."""
    return encode(kind, save_all=True, append_images=[PICTURE.rotate(90, expand=False)])


def corrupt(data: bytes, offset: int) -> bytes:
    """Return `data` with one byte changed."""
    return data[:offset] + bytes([data[offset] ^ 0x55]) + data[offset + 1 :]


CASES: dict[str, tuple[Reason, Callable[[], bytes]]] = {
    "nothing": (Reason.EMPTY, bytes),
    "too many bytes": (Reason.TOO_MANY_BYTES, lambda: bytes(DEFAULT_LIMITS.max_bytes + 1)),
    "text": (Reason.UNSUPPORTED_FORMAT, lambda: b"<html><body>not found</body></html>"),
    "a bitmap": (Reason.UNSUPPORTED_FORMAT, lambda: encode("BMP")),
    "a TIFF": (Reason.UNSUPPORTED_FORMAT, lambda: encode("TIFF")),
    "a GIF": (Reason.UNSUPPORTED_FORMAT, lambda: encode("GIF")),
    "an animated GIF": (Reason.UNSUPPORTED_FORMAT, lambda: animate("GIF")),
    "an animated WebP": (Reason.ANIMATED, lambda: animate("WEBP")),
    "an animated PNG": (Reason.ANIMATED, lambda: animate("PNG")),
    "a progressive JPEG cut in half": (Reason.TRUNCATED, lambda: encode("JPEG", progressive=True)[:1500]),
    "a PNG cut in its header": (Reason.TRUNCATED, lambda: encode("PNG")[:30]),
    "a table without length": (Reason.UNDECODABLE, lambda: make_jpeg(b"\xff\xc4\0\0", make_frame(64, 64))),
    "a JPEG cut in a table": (Reason.TRUNCATED, lambda: encode("JPEG")[:100]),
    "three bytes": (Reason.TRUNCATED, lambda: b"\xff\xd8\xff"),
    "a PNG signature": (Reason.TRUNCATED, lambda: PNG_MAGIC),
    "a WebP cut in half": (Reason.TRUNCATED, lambda: encode("WEBP")[:1500]),
    "a WebP that lacks a byte": (Reason.TRUNCATED, lambda: encode("WEBP", lossless=True)[:-2]),
    "a JPEG bomb": (Reason.TOO_MANY_PIXELS, lambda: make_jpeg(make_frame(65_500, 65_500)).ljust(335, b"\0")),
    "a PNG bomb": (
        Reason.TOO_MANY_PIXELS,
        lambda: make_png_header(65_500, 65_500) + make_chunk(b"IDAT") + make_chunk(b"IEND"),
    ),
    "a deep PNG bomb": (
        Reason.TOO_MANY_PIXELS,
        lambda: make_png_header(14_000, 14_000, depth=16, colour=6) + make_chunk(b"IDAT") + make_chunk(b"IEND"),
    ),
    "a WebP bomb": (
        Reason.TOO_MANY_PIXELS,
        lambda: make_webp(b"VP8L", make_lossless_header(16_384, 16_384) + bytes(9)),
    ),
    "a strip": (Reason.SIDE_TOO_LONG, lambda: make_jpeg(make_frame(65_500, 64))),
    "a speck": (Reason.SIDE_TOO_SHORT, lambda: make_jpeg(make_frame(8, 64))),
    "a JPEG without height": (Reason.SIDE_TOO_SHORT, lambda: make_jpeg(make_frame(64, 0))),
    "2,000 scans": (Reason.TOO_MANY_SCANS, lambda: repeat_last_scan(2000)),
    "101 scans": (Reason.TOO_MANY_SCANS, lambda: repeat_last_scan(91)),
    "30 scans of 90 megapixels": (
        Reason.TOO_MANY_SCANS,
        lambda: make_jpeg(make_frame(10_000, 9_000, 0xC2), SCAN * 29),
    ),
    "two sizes": (Reason.UNDECODABLE, lambda: make_jpeg(make_frame(64, 64), make_frame(9000, 9000))),
    "no frame": (Reason.UNDECODABLE, lambda: b"\xff\xd8" + SCAN + END),
    "no scan": (Reason.UNDECODABLE, lambda: b"\xff\xd8" + make_frame(64, 64) + END),
    "a frame without channels": (Reason.UNDECODABLE, lambda: make_jpeg(b"\xff\xc0\0\x08\x08\0\x40\0\x40\x03")),
    "12-bit JPEG": (Reason.UNSUPPORTED_FORMAT, lambda: make_jpeg(make_frame(64, 64, 0xC1, bits=12))),
    "lossless JPEG": (Reason.UNSUPPORTED_FORMAT, lambda: make_jpeg(make_frame(64, 64, 0xC3))),
    "arithmetic JPEG": (Reason.UNSUPPORTED_FORMAT, lambda: make_jpeg(make_frame(64, 64, 0xC9))),
    "two channels": (Reason.UNSUPPORTED_FORMAT, lambda: make_jpeg(make_frame(64, 64, channels=2))),
    "CMYK of unknown polarity": (Reason.UNSUPPORTED_FORMAT, lambda: make_jpeg(make_frame(64, 64, channels=4))),
    "a PNG without pixels": (Reason.UNDECODABLE, lambda: make_png_header(64, 64) + make_chunk(b"IEND")),
    "a PNG colour type 5": (
        Reason.UNDECODABLE,
        lambda: make_png_header(64, 64, colour=5) + make_chunk(b"IDAT") + make_chunk(b"IEND"),
    ),
    "a PNG with two headers": (
        Reason.UNDECODABLE,
        lambda: make_png_header(64, 64) + make_png_header(64, 64)[8:] + make_chunk(b"IEND"),
    ),
    "a PNG with a changed pixel": (Reason.UNDECODABLE, lambda: corrupt(encode("PNG"), 2000)),
    "a WebP of two sizes": (
        Reason.UNDECODABLE,
        lambda: make_webp(
            b"VP8X",
            b"\0" * 4 + b"\xff\0\0" * 2 + b"VP8L" + struct.pack("<I", 14) + make_lossless_header(64, 64) + bytes(9),
        ),
    ),
    "a WebP without a picture": (Reason.UNDECODABLE, lambda: make_webp(b"ICCP", bytes(40))),
    "a WebP of noise": (Reason.UNDECODABLE, lambda: make_webp(b"VP8 ", bytes(40))),
}


def refuse(data: bytes) -> Unscorable:
    """Return the refusal of `data`, after a check of its CPU time."""
    before = time.process_time()
    with pytest.raises(Unscorable) as refusal:
        probe_image(data)
    assert time.process_time() - before < CPU_S
    return refusal.value


@pytest.mark.parametrize("name", CASES)
def test_a_hostile_file_is_refused_for_its_reason(name: str) -> None:
    """Each file gets its typed reason and a sentence."""
    reason, make = CASES[name]
    refusal = refuse(make())
    assert refusal.reason is reason
    assert len(refusal.detail) > 10


def fill(head: bytes, unit: bytes, tail: bytes = b"") -> bytes:
    """Return the largest admitted file that consists of `unit` between `head` and `tail`."""
    return head + unit * ((DEFAULT_LIMITS.max_bytes - len(head) - len(tail)) // len(unit)) + tail


SCANNING = b"\xff\xd8" + make_frame(100, 100) + SCAN
PNG = make_png_header(100, 100)
FLOODS = {
    "fill bytes": (b"\xff\xd8", b"\xff", b""),
    "markers without length": (b"\xff\xd8\xff", b"\xff\x01", b""),
    "empty segments": (b"\xff\xd8", b"\xff\xe5\0\x02", END),
    "empty segments in a scan": (SCANNING, b"\xff\xe5\0\x02", END),
    "tables": (SCANNING, b"\xff\xc4\0\x02", END),
    "scans": (SCANNING, SCAN, END),
    "EXIF segments": (b"\xff\xd8", b"\xff\xe1\0\x10Exif\0\0MM\0*\0\0\0\0", END),
    "empty PNG chunks": (PNG, make_chunk(b"IDAT"), b""),
    "empty text chunks": (PNG, make_chunk(b"zTXt"), b""),
    "empty WebP chunks": (
        b"RIFF" + struct.pack("<I", DEFAULT_LIMITS.max_bytes - 64) + b"WEBP",
        b"ABCD\0\0\0\0",
        b"",
    ),
}


@pytest.mark.parametrize("name", FLOODS)
def test_a_flood_of_tiny_parts_is_refused(name: str) -> None:
    """64 MiB of tiny segments or chunks are refused within the same time."""
    assert refuse(fill(*FLOODS[name])).reason in {Reason.UNDECODABLE, Reason.TRUNCATED, Reason.TOO_MANY_SCANS}


SCAN_FLOODS = {
    "fill bytes": (b"\xff", b""),
    "fill bytes, then stuffing": (b"\xff", b"\0"),
    "stuffing": (b"\xff\0", b""),
    "filled stuffing": (b"\xff\xff\0", b""),
    "restart markers": (b"\xff\xd0", b""),
    "zeros": (b"\0", b""),
}


@pytest.mark.parametrize("end", [b"", END])
@pytest.mark.parametrize("name", SCAN_FLOODS)
def test_a_flood_in_a_scan_is_refused_by_the_decoders(detector: FaceDetector, name: str, end: bytes) -> None:
    """8 MiB in a scan of a small picture, whose missing pixels are measured, are refused within the same time."""
    unit, tail = SCAN_FLOODS[name]
    picture = encode("JPEG", restart_marker_rows=1)
    head = picture[: picture.index(b"\xff\xda") + 14]
    data = head + unit * ((8 << 20) // len(unit)) + tail + end
    before = time.process_time()
    info = probe_image(data)
    with pytest.raises(Unscorable) as refusal:
        detector.detect(data, info)
    (crop,) = FaceCropper(PreprocessSpec(), threads=1, max_batch=1).crop(
        [EncodedFace(data, info, Window(0, 0, 96, 80))]
    )
    assert time.process_time() - before < CPU_S
    assert refusal.value.reason in {Reason.UNDECODABLE, Reason.TRUNCATED}
    assert isinstance(crop, Unscorable)


def test_walks_over_markers_cost_little_beside_one_decoding(detector: FaceDetector) -> None:
    """Megabytes of repeated scans, whose warning does not locate the damage, are decoded once, and walked cheaply."""
    noise = np.random.default_rng(5).integers(0, 256, (700, 700, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).resize((1400, 1400)).save(buffer, "JPEG", progressive=True, quality=10, subsampling=0)
    data = buffer.getvalue()
    data = data[:-2] + data[data.rindex(b"\xff\xda") : -2] * 89 + END
    started = time.process_time()
    info = probe_image(data)
    strip_metadata(data, info.media_type)
    walked = time.process_time()
    with pytest.raises(Unscorable) as refusal:
        detector.detect(data, info)
    assert "Inconsistent progression" in refusal.value.detail
    assert walked - started < (time.process_time() - walked) / 5
