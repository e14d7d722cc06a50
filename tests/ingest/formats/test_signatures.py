"""Formats that are not read are named by their first bytes."""

import io
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ingest.formats.signatures import HEAD_BYTES, name_format


def save(kind: str) -> bytes:
    """Return a small picture as Pillow writes it."""
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(buffer, kind)
    return buffer.getvalue()


def brand(major: bytes, *others: bytes) -> bytes:
    """Return the `ftyp` box that begins an ISO base media file."""
    body = major + bytes(4) + b"".join(others)
    return struct.pack(">I", 8 + len(body)) + b"ftyp" + body + bytes(64)


def tiff(order: str, make: bytes, *, preview: bool, dng: bool = False) -> bytes:
    """Return a TIFF file's header and first directory: whether the first image is a preview, the make, DNG's tag."""
    mark = b"II" if order == "<" else b"MM"
    entries = [(254, 4, 1, struct.pack(f"{order}I", int(preview))), (271, 2, len(make), struct.pack(f"{order}I", 200))]
    entries += [(50706, 1, 4, bytes([1, 4, 0, 0]))] if dng else []
    directory = struct.pack(f"{order}H", len(entries))
    directory += b"".join(struct.pack(f"{order}HHI", tag, kind, count) + value for tag, kind, count, value in entries)
    return (mark + struct.pack(f"{order}HI", 42, 8) + directory).ljust(200, b"\0") + make


FILES = {
    "a GIF image": [save("GIF")],
    "a BMP image": [save("BMP")],
    "a TIFF image": [save("TIFF"), tiff("<", b"NIKON CORPORATION", preview=False), tiff(">", b"Epson", preview=True)],
    "a Nikon NEF raw image": [tiff("<", b"NIKON CORPORATION", preview=True), tiff(">", b"NIKON", preview=True)],
    "a Sony ARW raw image": [tiff("<", b"SONY", preview=True)],
    "a DNG raw image": [tiff("<", b"Google", preview=True, dng=True), tiff(">", b"SONY", preview=True, dng=True)],
    "a Canon CR2 raw image": [b"II*\0\x10\0\0\0CR\x02\0" + bytes(40)],
    "a Canon CR3 raw image": [brand(b"crx ", b"crx ", b"isom")],
    "an AVIF image": [save("AVIF"), brand(b"mif1", b"mif1", b"avif", b"miaf")],
    "a HEIC image": [brand(b"heic", b"mif1", b"heic"), brand(b"mif1", b"heic"), brand(b"msf1", b"hevc")],
    "a compact HEIF image": [brand(b"mif3")],
    "an MP4 video": [brand(b"isom", b"iso2", b"avc1", b"mp41"), brand(b"mp42")],
    "a QuickTime video": [brand(b"qt  ", b"qt  "), struct.pack(">I", 8) + b"wide" + bytes(20)],
    "a Matroska or WebM video": [b"\x1aE\xdf\xa3\x9fB\x86\x81\x01"],
    "an AVI video": [b"RIFF\0\1\0\0AVI LIST"],
    "a JPEG 2000 image": [save("JPEG2000"), b"\xff\x4f\xff\x51\0\x2f"],
    "a PDF document": [save("PDF")],
    "a ZIP archive": [b"PK\x03\x04\x14\0"],
    "a Git LFS pointer, whose image was not fetched": [
        b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 12345\n"
    ],
    "an HTML page": [b"<!DOCTYPE html><title>403</title>", b"\n\n <html><head>", "\ufeff<HTML>".encode()],
    "an SVG drawing": [
        b'<svg xmlns="http://www.w3.org/2000/svg"/>',
        b'<?xml version="1.0"?>\n<!-- drawn -->\n<!DOCTYPE svg PUBLIC "-//W3C//DTD SVG 1.1//EN" "svg11.dtd">\n<svg>',
        "\ufeff<svg>".encode("utf-16-le"),
    ],
    "an XML document, such as a server's error": [
        b'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>AccessDenied</Code></Error>',
        b"<Error><Code>NoSuchKey</Code></Error>",
    ],
    "a JSON document, such as a server's error": [b'{"message": "Forbidden"}', b'[{"code": 404}]'],
}


@pytest.mark.parametrize("name", FILES)
def test_a_format_that_is_not_read_has_its_name(name: str) -> None:
    """Files as encoders, cameras and servers write them get the name of their format."""
    assert [name_format(data) for data in FILES[name]] == [name] * len(FILES[name])


@pytest.mark.parametrize("data", [b"", b"hello", b"\0" * 100, b"BM and more text that begins like one", b"{not json"])
def test_an_unknown_format_has_no_name(data: bytes) -> None:
    """No format is guessed."""
    assert name_format(data) is None


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_format_that_is_read_has_no_name(kind: str) -> None:
    """The three formats that are read never get the name of another one."""
    assert name_format(save(kind)) is None


@given(st.binary(max_size=600), st.sampled_from([data for files in FILES.values() for data in files]))
def test_any_bytes_give_a_name_or_none(tail: bytes, head: bytes) -> None:
    """For any bytes after a beginning, nothing is raised, and bytes after the head do not matter."""
    name_format(tail)
    assert name_format(head + tail) is not None
    data = (head + tail).ljust(HEAD_BYTES, b"\0")
    assert name_format(data) == name_format(data + tail)
