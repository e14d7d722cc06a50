"""Decodes HEIC with libheif and libde265 (pi-heif), and AVIF with dav1d (Pillow): 8-bit RGB, before the orientation.

Each tile of a HEIC grid is decoded alone, and only those that the wanted window touches: libheif leaves a tile that
fails black, and gives no error. AVIF is decoded whole, since its decoder blends chroma across tiles.

Neither decoder reports codes that end early: libde265 invents the rest. So `find_missing` decodes HEIC a second time
with random bytes behind the codes of each slice: as many as the samples of a 4:2:0 picture, since a slice may state
where the codes of each row begin, far behind the last byte. None is a zero, which may escape. A decoder that has all
data never reads them. Pixels that change were missing. Not measurable: codes that are valid and wrong, and missing ones
in AVIF.
"""

import io
from dataclasses import replace

import numpy as np
import pi_heif
from numpy.typing import NDArray
from PIL import AvifImagePlugin, Image

from ingest.formats.heif import HeifPicture, open_heif
from ingest.formats.heif_writer import write_heif
from ingest.reasons import Reason, Unscorable
from ingest.spec import Window

AvifImagePlugin.DEFAULT_MAX_THREADS = pi_heif.options.DECODE_THREADS = 1  # the sandbox has one process for each core

Pixels = NDArray[np.uint8]
MISSING_CODES = "codes of the image are missing"
_MAX_UNIT_BYTES = 15 << 20  # libde265 refuses 16 MiB
_FIRST_PARAMETERS = 32  # NAL unit types below are slices (H.265, table 7-1)


def decode_heif(bare: bytes, window: Window | None = None) -> Pixels:
    """Return the stored picture, or a `window` of it, RGB (H, W, 3).

    Args:
        bare: a file of `strip_heif`.
        window: in stored pixels; None is the whole picture.

    Raises:
        Unscorable: undecodable.
    """
    picture = open_heif(bare)
    crop = picture.crop
    if window is None:
        window = Window(0, 0, crop.width, crop.height)
    left, top = crop.left + window.left, crop.top + window.top
    bottom, right = top + window.height, left + window.width
    if picture.kind == b"av01":
        return _decode_file(picture.drop_crop(), (picture.width, picture.height))[top:bottom, left:right]
    across, down = picture.tile_size
    pixels = np.empty((window.height, window.width, 3), np.uint8)
    for row in range(top // down, -(-bottom // down)):
        for column in range(left // across, -(-right // across)):
            tile = _decode_file(picture.pick_tile(row * picture.columns + column), picture.tile_size)
            x, y = column * across - left, row * down - top  # of the tile in the window
            part = tile[max(0, -y) : window.height - y, max(0, -x) : window.width - x]
            pixels[max(0, y) : y + down, max(0, x) : x + across] = part
    return pixels


def find_missing(bare: bytes, window: Window | None, pixels: Pixels) -> NDArray[np.bool_] | None:
    """Return which of `pixels` are missing (H, W), where `decode_heif` returned them; None if none is.

    Raises:
        Unscorable: undecodable.
    """
    picture = open_heif(bare)
    if picture.kind == b"av01":
        return None
    across, down = picture.tile_size
    tail = np.random.default_rng(0).integers(4, 256, across * down * 3 // 2, np.uint8).tobytes()
    longer = replace(picture, tiles=tuple(_extend_slices(tile, tail) for tile in picture.tiles), orientation=1)
    missing = (decode_heif(write_heif(longer), window) != pixels).any(axis=2)
    return missing if missing.any() else None


def _extend_slices(tile: bytes, tail: bytes) -> bytes:
    """Return a coded HEVC image with the bytes of `tail` behind the codes of each slice."""
    units, position = [], 0
    while position < len(tile):
        end = position + 4 + int.from_bytes(tile[position : position + 4], "big")
        unit = tile[position + 4 : end]
        if unit[0] >> 1 & 63 < _FIRST_PARAMETERS:
            unit += tail[: max(0, _MAX_UNIT_BYTES - len(unit))]
        units += [len(unit).to_bytes(4, "big"), unit]
        position = end
    return b"".join(units)


def _decode_file(picture: HeifPicture, size: tuple[int, int]) -> Pixels:
    try:
        pixels = (_decode_avif if picture.kind == b"av01" else _decode_hevc)(write_heif(picture))
    except MemoryError:
        raise
    except Exception as error:  # both libraries raise ValueError, RuntimeError, SyntaxError and others on bad bytes
        if "emory" in str(error) and "Security limit" not in str(error):  # another size than the container's
            raise MemoryError(str(error)) from error
        message = f"the image data cannot be decoded ({type(error).__name__})"
        raise Unscorable(Reason.UNDECODABLE, message) from error
    if pixels.shape[1::-1] != size:
        found = f"{pixels.shape[1]} x {pixels.shape[0]}"
        message = f"the image data have {found} pixels, their container states {size[0]} x {size[1]}"
        raise Unscorable(Reason.UNDECODABLE, message)
    return pixels


def _decode_avif(data: bytes) -> Pixels:
    with Image.open(io.BytesIO(data), formats=("AVIF",)) as image:
        return np.asarray(image.convert("RGB"))


def _decode_hevc(data: bytes) -> Pixels:
    image = pi_heif.open_heif(data)
    # A copy, since the library frees the pixels with `image`.
    pixels = np.array(np.frombuffer(image.data, np.uint8)).reshape(image.size[1], image.size[0], -1)
    return np.broadcast_to(pixels, (*pixels.shape[:2], 3)) if pixels.shape[2] == 1 else pixels
