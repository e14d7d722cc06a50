"""What an image's headers state about its history: camera, JPEG quality, and the size at which it was taken.

Camera and stated size are hints: anybody can write a header. The JPEG quality is that of the table with which the
pixels are decoded, and 16 of its 64 entries have no influence: they could be made coarse with hardly any effect on the
pixels. Text is short and printable. Not covered: maker notes, thumbnails; XMP (`ingest.provenance`).
"""

from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from ingest.formats import heif, jpeg, jxl, png, webp
from ingest.formats.header import EXIF_HEADER, TiffBlock
from ingest.probe import ImageInfo
from ingest.reasons import Unscorable

MAX_WORD_CHARACTERS = 48  # the longest make and model in our photographs have 22 and 30
_MAKE, _MODEL, _PIXEL_X, _PIXEL_Y = 0x010F, 0x0110, 0xA002, 0xA003
_APP1, _DQT, _SOS = 0xE1, 0xDB, 0xDA
_FRAMES = frozenset({0xC0, 0xC1, 0xC2})
_MAX_TABLES = 4  # T.81 B.2.4.1: destinations 0..3
_TABLE_ENTRIES, _USED_ENTRIES = 64, 48  # the finest

# T.81 table K.1, which libjpeg scales by its quality (`jpeg_add_quant_table`). Only sums are used, so that the zigzag
# order does not matter.
_LUMINANCE = np.array(
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ]
)


def _sum_finest(entries: Iterable[int]) -> int:
    return sum(sorted(entries)[:_USED_ENTRIES])


def _sum_table(quality: int) -> int:
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality  # noqa: PLR2004 - libjpeg's two branches
    return _sum_finest(np.clip((_LUMINANCE * scale + 50) // 100, 1, 255).ravel().tolist())


_SUMS = [_sum_table(quality) for quality in range(100, 0, -1)]  # ascending: 48 at quality 100, 12,240 at 1


@dataclass(frozen=True, slots=True)
class ImageMetadata:
    """What headers state about an image's history; None, or an empty text, where they state nothing.

    Attributes:
        camera: make and model as one text of at most 97 printable characters.
        jpeg_quality: 1..100 on libjpeg's scale; where an encoder has its own tables, the quality of libjpeg's nearest.
        exif_width, exif_height: stored pixels as stated by the program that wrote the EXIF block last.
    """

    camera: str = ""
    jpeg_quality: int | None = None
    exif_width: int | None = None
    exif_height: int | None = None


def read_image_metadata(data: bytes, info: ImageInfo) -> ImageMetadata:
    """Return what the headers of `data` state; `info` is the result of `probe_image`.

    Never raises on damaged or hostile headers: a field that cannot be read is absent. A usual JPEG takes 0.05 ms, since
    the walk ends where the first scan begins; 65,536 chunks of a PNG take about 20 ms.
    """
    exif, quality = find_exif(data, info)
    block = TiffBlock(exif)
    main = block.read_first_directory()
    fields = block.read_exif_directory(main)
    make, model = (clean_text(block.read_text(main.get(tag), 4 * MAX_WORD_CHARACTERS)) for tag in (_MAKE, _MODEL))
    width, height = (block.read_number(fields.get(tag)) for tag in (_PIXEL_X, _PIXEL_Y))
    return ImageMetadata(_join_names(make, model), quality, width or None, height or None)


def find_exif(data: bytes, info: ImageInfo) -> tuple[bytes, int | None]:
    """Return the EXIF block of `data`, empty if there is none, and the quality of a JPEG; see `read_image_metadata`."""
    try:
        if info.media_type == "image/jpeg":
            return _walk_jpeg(data)
        if info.media_type == "image/png":
            return next((data[start:end] for kind, start, end in png.walk_chunks(data) if kind == b"eXIf"), b""), None
        if info.media_type == "image/webp":
            return next((data[start:end] for kind, start, end in webp.walk_chunks(data) if kind == b"EXIF"), b""), None
        if info.media_type in heif.MEDIA_TYPES.values():
            return heif.read_exif_item(data), None
        if info.media_type == jxl.JXL:
            return jxl.read_exif_box(data), None
    except Unscorable:
        pass  # `probe_image` would have refused it
    return b"", None


def _walk_jpeg(data: bytes) -> tuple[bytes, int | None]:
    """Return the EXIF block and the quality of the first component's quantisation table.

    Decoders keep the table that is defined when the first scan with the component begins.
    """
    exif, tables, component, table = b"", dict[int, int](), None, None
    for code, _, start, end in jpeg.walk_segments(data):
        if code == _APP1 and not exif and EXIF_HEADER.match(data, start, end):
            exif = data[start:end]
        elif code == _DQT:
            tables |= _sum_tables(data[start:end])
        elif code in _FRAMES and end - start > 8:  # noqa: PLR2004 - the ninth byte names the first component's table
            component, table = data[start + 6], data[start + 8]
        elif code == _SOS and component in tuple(data[start + 1 : end - 3 : 2]):
            break
    return exif, None if table is None or table not in tables else estimate_quality(tables[table])


def _sum_tables(body: bytes) -> dict[int, int]:
    """Return the sum of the finest entries of each complete table of a DQT segment by its destination."""
    sums: dict[int, int] = {}
    position = 0
    while position < len(body) and len(sums) < _MAX_TABLES:
        wide, destination = body[position] >> 4, body[position] & 15
        size = _TABLE_ENTRIES * (2 if wide else 1)
        entries = body[position + 1 : position + 1 + size]
        if len(entries) == size:
            highs = entries[::2] if wide else bytes(_TABLE_ENTRIES)
            lows = entries[1::2] if wide else entries
            sums[destination] = _sum_finest(high << 8 | low for high, low in zip(highs, lows, strict=True))
        position += 1 + size
    return sums


def estimate_quality(table_sum: int) -> int:
    """Return the quality 1..100 whose luminance table in libjpeg has the sum of finest entries nearest to this."""
    first_larger = bisect_left(_SUMS, table_sum)
    near = [index for index in (first_larger - 1, first_larger) if 0 <= index < len(_SUMS)]
    return 100 - min(near, key=lambda index: abs(_SUMS[index] - table_sum))


def clean_text(text: bytes, most: int = MAX_WORD_CHARACTERS) -> str:
    """Return one line of at most `most` printable characters; any other one, such as a direction mark, is a space."""
    decoded = text.decode(errors="replace")
    words = "".join(character if character.isprintable() else " " for character in decoded).split()
    return " ".join(words)[:most].strip()


def _join_names(make: str, model: str) -> str:
    """Return make and model; without the make where the model begins with one of its words: `NIKON D90`."""
    brands = make.casefold().split()
    return model if model.casefold().partition(" ")[0] in brands else f"{make} {model}".strip()
