"""Unusual files that cameras and editors write and browsers show whole get the result of the usual file."""

import io
import struct
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import skimage
from PIL import Image

from ingest.dali import FaceCropper
from ingest.detect import Detection, FaceDetector
from ingest.probe import EncodedFace, probe_image
from ingest.reasons import Reason, Unscorable
from ingest.spec import FaceBox, PreprocessSpec

SPEC = PreprocessSpec()
BOX = FaceBox(180, 60, 90, 120)
END = b"\xff\xd9"


@cache
def encode(kind: str, **options: object) -> bytes:
    """Return the public-domain portrait as encoded bytes."""
    buffer = io.BytesIO()
    portrait = Image.open(Path(skimage.__file__).parent / "data" / "astronaut.png").convert("RGB")
    portrait.save(buffer, kind, **options)
    return buffer.getvalue()


def segment(code: int, body: bytes) -> bytes:
    """Return a JPEG marker segment."""
    return bytes([0xFF, code]) + struct.pack(">H", len(body) + 2) + body


def chunk(kind: bytes, body: bytes, checksum: int | None = None) -> bytes:
    """Return a PNG chunk."""
    return (
        struct.pack(">I", len(body))
        + kind
        + body
        + struct.pack(">I", zlib.crc32(kind + body) if checksum is None else checksum)
    )


def find(data: bytes, code: int) -> tuple[int, int]:
    """Return the start and the end of the first JPEG segment `code`, its marker included."""
    start = 2
    while data[start + 1] != code:
        start += 2 + int.from_bytes(data[start + 2 : start + 4], "big")
    return start, start + 2 + int.from_bytes(data[start + 2 : start + 4], "big")


def change(data: bytes, code: int, edit: Callable[[bytes], bytes]) -> bytes:
    """Return the JPEG with the body of its first segment `code` edited."""
    start, end = find(data, code)
    return data[:start] + segment(code, edit(data[start + 4 : end])) + data[end:]


def after_start(data: bytes, *parts: bytes) -> bytes:
    """Return the JPEG with `parts` after its start marker."""
    return data[:2] + b"".join(parts) + data[2:]


def after_header(data: bytes, *parts: bytes) -> bytes:
    """Return the PNG with `parts` after its header."""
    return data[:33] + b"".join(parts) + data[33:]


def before_restarts(data: bytes, filling: bytes) -> bytes:
    """Return the JPEG with `filling` before each restart marker of its scan."""
    _, start = find(data, 0xDA)
    scan = data[start:]
    for number in range(8):
        marker = bytes([0xFF, 0xD0 + number])
        scan = scan.replace(marker, filling + marker)
    return data[:start] + scan


def animate(data: bytes) -> bytes:
    """Return the WebP still as an animation of one frame."""
    width = height = 512
    sides = struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3]
    picture = data[12:] + b"\0" * (len(data) % 2)
    frame = bytes(6) + sides + bytes(4) + picture
    chunks = b"VP8X" + struct.pack("<I", 10) + b"\x02\0\0\0" + sides + b"ANIM" + struct.pack("<I", 6) + bytes(6)
    chunks += b"ANMF" + struct.pack("<I", len(frame)) + frame
    return b"RIFF" + struct.pack("<I", len(chunks) + 4) + b"WEBP" + chunks


JPEG = {"quality": 92}
ROWS = {"quality": 92, "restart_marker_rows": 1}
ADOBE = b"Adobe\0\x64\0\0\0\0"
JFIF = b"JFIF\0\1\1\0\0\1\0\1\0\0"
# Name -> (the unusual file, the usual one).
CASES: dict[str, Callable[[], tuple[bytes, bytes]]] = {
    "scan parameters of a Samsung phone": lambda: (
        change(encode("JPEG", **JPEG), 0xDA, lambda body: body[:-3] + bytes(3)),
        encode("JPEG", **JPEG),
    ),
    "JFIF 2.01": lambda: (
        change(encode("JPEG", **JPEG), 0xE0, lambda body: body[:5] + b"\2\1" + body[7:]),
        encode("JPEG", **JPEG),
    ),
    "no end marker": lambda: (encode("JPEG", **JPEG)[:-2], encode("JPEG", **JPEG)),
    "half an end marker": lambda: (encode("JPEG", **JPEG)[:-1], encode("JPEG", **JPEG)),
    "zeros instead of the end marker": lambda: (encode("JPEG", **JPEG)[:-2] + bytes(512), encode("JPEG", **JPEG)),
    "no end marker, another picture": lambda: (
        encode("JPEG", **JPEG)[:-2] + encode("JPEG", quality=30),
        encode("JPEG", **JPEG),
    ),
    "no end marker, restarts": lambda: (encode("JPEG", **ROWS)[:-2], encode("JPEG", **ROWS)),
    "progressive without an end marker": lambda: (
        encode("JPEG", quality=92, progressive=True)[:-2],
        encode("JPEG", quality=92, progressive=True),
    ),
    "zeros before restart markers": lambda: (
        before_restarts(encode("JPEG", **ROWS), bytes(600)),
        encode("JPEG", **ROWS),
    ),
    "a byte before restart markers": lambda: (before_restarts(encode("JPEG", **ROWS), b"\7"), encode("JPEG", **ROWS)),
    "fill bytes before restart markers": lambda: (
        before_restarts(encode("JPEG", **ROWS), b"\xff" * 5),
        encode("JPEG", **ROWS),
    ),
    "two stray bytes before the end": lambda: (encode("JPEG", **JPEG)[:-2] + b"\x12\x34" + END, encode("JPEG", **JPEG)),
    "zeros before the end": lambda: (encode("JPEG", **JPEG)[:-2] + bytes(300) + END, encode("JPEG", **JPEG)),
    "an unknown colour transform": lambda: (
        change(encode("JPEG", **JPEG), 0xE0, lambda _: b"").replace(b"\xff\xe0\0\2", segment(0xEE, ADOBE + b"\7")),
        encode("JPEG", **JPEG),
    ),
    "an application segment of length 0": lambda: (
        after_start(encode("JPEG", **JPEG), b"\xff\xe5\0\0"),
        encode("JPEG", **JPEG),
    ),
    "a comment of length 1": lambda: (after_start(encode("JPEG", **JPEG), b"\xff\xfe\0\1"), encode("JPEG", **JPEG)),
    "a short Adobe segment": lambda: (
        after_start(encode("JPEG", **JPEG), segment(0xEE, b"Adobe")),
        encode("JPEG", **JPEG),
    ),
    "a short JFIF segment": lambda: (
        after_start(encode("JPEG", **JPEG), segment(0xE0, b"JFIF\0\1")),
        encode("JPEG", **JPEG),
    ),
    "a trailer": lambda: (encode("JPEG", **JPEG) + encode("JPEG", quality=30) + b"SEFT", encode("JPEG", **JPEG)),
    "a PNG profile of 2 MB": lambda: (
        after_header(
            encode("PNG"), chunk(b"iCCP", b"p\0\0" + zlib.compress(np.random.default_rng(0).bytes(2_000_000)))
        ),
        encode("PNG"),
    ),
    "PNG text that inflates to 2 MB": lambda: (
        after_header(encode("PNG"), chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(2_000_000)))),
        encode("PNG"),
    ),
    "PNG text with a wrong checksum": lambda: (
        after_header(encode("PNG"), chunk(b"tEXt", b"Comment\0hello", checksum=1)),
        encode("PNG"),
    ),
    "a PNG gamma chunk that is too short": lambda: (
        after_header(encode("PNG"), chunk(b"gAMA", b"\0")),
        encode("PNG"),
    ),
    "a PNG that lacks four bytes": lambda: (encode("PNG")[:-4], encode("PNG")),
    "a PNG without an end": lambda: (encode("PNG")[:-12], encode("PNG")),
    "a PNG end with a wrong checksum": lambda: (encode("PNG")[:-4] + bytes(4), encode("PNG")),
    "a PNG that lacks a checksum": lambda: (encode("PNG")[:-16], encode("PNG")),
    "a PNG animation of one frame": lambda: (
        after_header(
            encode("PNG"),
            chunk(b"acTL", struct.pack(">II", 1, 0)),
            chunk(b"fcTL", struct.pack(">IIIIIHHBB", 0, 512, 512, 0, 0, 1, 1, 0, 0)),
        ),
        encode("PNG"),
    ),
    "a PNG trailer": lambda: (encode("PNG") + bytes(100), encode("PNG")),
    "a WebP animation of one frame": lambda: (animate(encode("WEBP")), encode("WEBP")),
    "a WebP trailer": lambda: (encode("WEBP") + bytes(99), encode("WEBP")),
}


@pytest.fixture(scope="module")
def cropper() -> FaceCropper:
    """Return a cropper of one thread."""
    return FaceCropper(SPEC, threads=1, max_batch=4)


def detect(detector: FaceDetector, data: bytes) -> list[Detection]:
    """Return the faces that are found in encoded bytes."""
    return detector.detect(data, probe_image(data))


def crop(cropper: FaceCropper, data: bytes, box: FaceBox = BOX) -> np.ndarray | Unscorable:
    """Return one crop of encoded bytes."""
    face = EncodedFace.around(data, probe_image(data), box, SPEC)
    assert face is not None
    return cropper.crop([face])[0]


@pytest.mark.parametrize("name", CASES)
def test_an_unusual_file_is_the_same_picture(detector: FaceDetector, cropper: FaceCropper, name: str) -> None:
    """Its faces and its crop are those of the usual file, bit for bit."""
    unusual, usual = CASES[name]()
    assert unusual != usual
    assert len(detect(detector, usual)) == 1
    assert detect(detector, unusual) == detect(detector, usual)
    whole = FaceBox(0, 0, 512, 512)
    assert np.array_equal(crop(cropper, unusual, whole), crop(cropper, usual, whole))


@pytest.mark.parametrize("pad", [0, 1, 255])
def test_the_sixth_byte_of_an_exif_header_is_not_read(pad: int) -> None:
    """Some cameras write another byte than 0 there; the orientation is read in each case."""
    tiff = b"II*\0" + struct.pack("<IHHHIHHI", 8, 1, 0x112, 3, 1, 6, 0, 0)
    assert probe_image(after_start(encode("JPEG"), segment(0xE1, b"Exif\0" + bytes([pad]) + tiff))).orientation == 6


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (after_header(encode("PNG"), chunk(b"acTL", struct.pack(">II", 2, 0))), Reason.ANIMATED),
        # Its one frame is not the still picture, and browsers show the frame.
        (after_header(encode("PNG"), chunk(b"acTL", struct.pack(">II", 1, 0))), Reason.ANIMATED),
        (encode("JPEG", progressive=True)[: len(encode("JPEG", progressive=True)) // 3], Reason.TRUNCATED),
        (encode("JPEG")[:400], Reason.TRUNCATED),
        (encode("PNG")[:36], Reason.TRUNCATED),
    ],
)
def test_a_file_that_browsers_do_not_show_whole_is_refused(data: bytes, reason: Reason) -> None:
    """Animations and files that end before their last scan has begun have a reason."""
    with pytest.raises(Unscorable) as refusal:
        probe_image(data)
    assert refusal.value.reason is reason


def test_an_adobe_segment_before_the_frame_keeps_the_colours(cropper: FaceCropper) -> None:
    """A known colour transform of an Adobe segment is kept, also where the segment is before the frame header."""
    data = encode("JPEG", **JPEG)
    adobe = after_start(change(data, 0xE0, lambda _: b""), segment(0xEE, ADOBE + b"\1"))
    assert np.array_equal(crop(cropper, adobe), crop(cropper, data))
    red_green_blue = after_start(change(data, 0xE0, lambda _: b""), segment(0xEE, ADOBE + b"\0"))
    assert not np.array_equal(crop(cropper, red_green_blue), crop(cropper, data))
