"""The crops of an occlusion map, and the changed copies of a face's surroundings, as encoded images.

The copies are made from pixels that the sandbox decoded; nothing untrusted is decoded here.
"""

import io
import math
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ingest.crops import encode_crop, read_crop
from ingest.probe import EncodedFace, ImageInfo
from ingest.spec import FaceBox, Window
from scorer.explain.messages import GRID, Change

JPEG_QUALITY, RESIZE = 90, 0.95
# A JPEG is coded in blocks of 16 pixels; a region that begins at one, a block or more away from the window, gives the
# window the same pixels as the whole image does.
_BLOCK = 16

Pixels = NDArray[np.uint8]


def encode_png(pixels: Pixels) -> bytes:
    """Return pixels (H, W, 3), RGB, as PNG."""
    encoded = io.BytesIO()
    Image.fromarray(pixels).save(encoded, "PNG", compress_level=1)
    return encoded.getvalue()


def occlude_crop(crop: Pixels) -> list[EncodedFace]:
    """Return `GRID` x `GRID` crops, row by row, each with one square filled with the mean colour of `crop`."""
    edges = np.linspace(0, len(crop), GRID + 1).round().astype(int).tolist()
    mean = np.rint(crop.mean(axis=(0, 1))).astype(np.uint8)
    return [
        _cover(crop, slice(top, bottom), slice(left, right), mean)
        for top, bottom in pairwise(edges)
        for left, right in pairwise(edges)
    ]


def _cover(crop: Pixels, rows: slice, columns: slice, colour: Pixels) -> EncodedFace:
    covered = crop.copy()
    covered[rows, columns] = colour
    return read_crop(encode_crop(covered))


def choose_region(window: Window, info: ImageInfo) -> Window:
    """Return the part of an upright image that determines the pixels of `window` in a changed copy."""
    left, top = (max(0, (start // _BLOCK - 1) * _BLOCK) for start in (window.left, window.top))
    right, bottom = (
        min(side, (math.ceil(end / _BLOCK) + 1) * _BLOCK)
        for end, side in ((window.left + window.width, info.width), (window.top + window.height, info.height))
    )
    return Window(left, top, right - left, bottom - top)


def change_copies(pixels: Pixels, box: FaceBox) -> Iterator[tuple[Change, bytes, FaceBox]]:
    """Yield each change with the encoded copy of `pixels` (H, W, 3) and the box of the face in it."""
    picture, encoded = Image.fromarray(pixels), io.BytesIO()
    picture.save(encoded, "JPEG", quality=JPEG_QUALITY)
    yield "jpeg_90", encoded.getvalue(), box
    width, height = (max(1, round(RESIZE * side)) for side in picture.size)
    reduced = picture.resize((width, height), Image.Resampling.LANCZOS)
    across, down = width / picture.width, height / picture.height
    moved = FaceBox(box.x * across, box.y * down, box.width * across, box.height * down)
    yield "resize_95", encode_png(np.asarray(reduced)), moved
