"""HEIC, AVIF and JPEG XL files for tests, with all that a phone writes: grids, turns, EXIF, and what is ignored."""

import io
from dataclasses import replace
from functools import cache

import numpy as np
import pillow_heif
from PIL import Image

from ingest.formats.heif import HeifPicture, open_heif
from ingest.formats.heif_writer import write_heif
from ingest.spec import Window
from tests.ingest.formats import jxl_files

pillow_heif.register_heif_opener()


def make_picture(width: int = 96, height: int = 64, seed: int = 0) -> Image.Image:
    """Return a smooth picture of noise: each tile and turn differs."""
    noise = np.random.default_rng(seed).integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


@cache
def encode(kind: str, width: int = 96, height: int = 64, orientation: int = 1) -> bytes:
    """Return a picture as "HEIF", "AVIF" or lossless "JXL", turned by the file; EXIF of JXL states another turn."""
    picture, buffer = make_picture(width, height), io.BytesIO()
    exif = Image.Exif()
    exif[0x0112], exif[0x010F], exif[0x0110] = orientation, "Maker", "Maker One"
    if kind == "JXL":
        exif[0x0112] = 9 - orientation
        box = jxl_files.write_box(b"Exif", bytes(4) + exif.tobytes().removeprefix(b"Exif\0\0"))
        return jxl_files.wrap(jxl_files.turn(jxl_files.encode(picture), orientation), box)
    picture.info["exif"] = exif.tobytes()
    picture.save(buffer, kind, quality=80, exif=exif.tobytes())
    return buffer.getvalue()


def make_grid(columns: int, rows: int, width: int, height: int, side: int = 64) -> bytes:
    """Return a HEIC grid of tiles of `side` pixels whose canvas has `width` x `height` pixels."""
    tiles = []
    for seed in range(columns * rows):
        buffer = io.BytesIO()
        make_picture(side, side, seed).save(buffer, "HEIF", quality=80)
        tiles.append(open_heif(buffer.getvalue()))
    bodies, owned = tuple(tile.tiles[0] for tile in tiles), tuple(tile.properties[0] for tile in tiles)
    whole = Window(0, 0, width, height)
    return write_heif(HeifPicture(b"hvc1", width, height, columns, rows, (side, side), bodies, owned, whole, 1))


def crop(data: bytes, window: Window) -> bytes:
    """Return the file with a `clap` box."""
    return write_heif(replace(open_heif(data), crop=window))


def replace_field(data: bytes, kind: bytes, offset: int, value: bytes) -> bytes:
    """Return `data` with bytes at `offset` in the body of its first box of a kind."""
    start = data.index(kind) + 4 + offset
    return data[:start] + value + data[start + len(value) :]
