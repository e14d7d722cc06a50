"""The metadata blocks of an image, found without decoding it: EXIF, XMP, IIM and the texts of a PNG.

Every block and the number of blocks are limited; what exceeds a limit is left out. Not covered: extended XMP (over
64 KiB in a JPEG), texts and profiles that ImageMagick writes in hexadecimal, boxes of a JPEG XL in Brotli.
"""

import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field

from ingest.formats import heif, isobmff, jpeg, jxl, png, webp
from ingest.formats.header import EXIF_HEADER
from ingest.probe import ImageInfo
from ingest.reasons import Unscorable

MAX_XMP_BYTES = 1 << 20
MAX_IIM_BYTES = 1 << 20
MAX_TEXT_BYTES = 4096  # of a PNG's text; its beginning is enough
MAX_TEXTS = 64
MAX_PACKETS = 4
_APP1, _APP13, _SOS = 0xE1, 0xED, 0xDA
_JPEG_XMP, _PHOTOSHOP = b"http://ns.adobe.com/xap/1.0/\0", b"Photoshop 3.0\0"
_PNG_XMP = b"XML:com.adobe.xmp"
_TEXTS = frozenset({b"tEXt", b"zTXt", b"iTXt"})


@dataclass(slots=True)
class Blocks:
    """The blocks of one file; `iim` is the sequence of Photoshop's resources, `texts` the texts of a PNG by keyword."""

    exif: bytes = b""
    xmp: list[bytes] = field(default_factory=list)
    iim: bytes = b""
    texts: dict[str, str] = field(default_factory=dict)

    def add_xmp(self, packet: bytes) -> None:
        """Add an XMP packet within the limits."""
        if len(packet) <= MAX_XMP_BYTES and len(self.xmp) < MAX_PACKETS:
            self.xmp.append(packet)


def find_blocks(data: bytes, info: ImageInfo) -> Blocks:
    """Return the metadata blocks of an image that `probe_image` admitted; damage ends the search."""
    blocks = Blocks()
    with suppress(Unscorable):
        if info.media_type == "image/jpeg":
            _walk_jpeg(data, blocks)
        elif info.media_type == "image/png":
            _walk_png(data, blocks)
        elif info.media_type == "image/webp":
            _walk_webp(data, blocks)
        elif info.media_type in heif.MEDIA_TYPES.values():
            blocks.exif = heif.read_exif_item(data)
            for packet in _read_heif_xmp(data):
                blocks.add_xmp(packet)
        elif info.media_type == jxl.JXL:
            _walk_jxl(data, blocks)
    return blocks


def _walk_jpeg(data: bytes, blocks: Blocks) -> None:
    resources: list[bytes] = []
    for code, _, start, end in jpeg.walk_segments(data):
        if code == _SOS:
            break
        if code == _APP1 and not blocks.exif and EXIF_HEADER.match(data, start, end):
            blocks.exif = data[start:end]
        elif code == _APP1 and data.startswith(_JPEG_XMP, start, end):
            blocks.add_xmp(data[start + len(_JPEG_XMP) : end])
        elif code == _APP13 and data.startswith(_PHOTOSHOP, start, end):
            resources.append(data[start + len(_PHOTOSHOP) : end])
    blocks.iim = b"".join(resources)[:MAX_IIM_BYTES]


def _walk_webp(data: bytes, blocks: Blocks) -> None:
    for kind, start, end in webp.walk_chunks(data):
        if kind == b"EXIF":
            blocks.exif = blocks.exif or data[start:end]
        elif kind == b"XMP ":
            blocks.add_xmp(data[start:end])


def _walk_jxl(data: bytes, blocks: Blocks) -> None:
    blocks.exif = jxl.read_exif_box(data)
    for kind, start, end in jxl.walk_jxl_boxes(data):
        if kind == b"xml ":
            blocks.add_xmp(data[start:end])


def _walk_png(data: bytes, blocks: Blocks) -> None:
    seen = 0
    for kind, start, end in png.walk_chunks(data):
        if kind == b"eXIf":
            blocks.exif = blocks.exif or data[start:end]
        elif kind in _TEXTS and seen < MAX_TEXTS:
            seen += 1
            keyword, text = _read_text(kind, data[start:end])
            if keyword == _PNG_XMP:
                blocks.add_xmp(text)
            else:
                name = keyword.decode("latin-1")
                blocks.texts.setdefault(name, text[:MAX_TEXT_BYTES].decode(errors="replace"))


def _read_text(kind: bytes, body: bytes) -> tuple[bytes, bytes]:
    """Return (keyword, text) of a text chunk; the text is empty where it cannot be read."""
    keyword, _, rest = body.partition(b"\0")
    most = MAX_XMP_BYTES if keyword == _PNG_XMP else MAX_TEXT_BYTES
    if kind == b"tEXt":
        return keyword, rest[: most + 1]
    packed = kind == b"zTXt"
    if kind == b"iTXt":
        packed, rest = rest[:1] == b"\1", rest[2:]
        _, _, rest = rest.partition(b"\0")[2].partition(b"\0")  # language and translated keyword
    elif packed:
        rest = rest[1:]
    return keyword, _inflate(rest, most + 1) if packed else rest[: most + 1]


def _inflate(packed: bytes, most: int) -> bytes:
    """Return at most `most` bytes of a compressed text, however long it is."""
    with suppress(zlib.error):
        return zlib.decompressobj().decompress(packed, most)
    return b""


def _read_heif_xmp(data: bytes) -> Iterator[bytes]:
    tables = isobmff.ItemTables(data)
    for item in tables.items.values():
        if item.kind == b"mime" and not item.protected:
            packet = tables.read_item(item)
            if b"xmpmeta" in packet[:1024] or b"rdf:RDF" in packet[:1024]:
                yield packet
