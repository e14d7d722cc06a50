"""An image as tiles of one size at several scales, and the boxes found in them as one list of faces."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

TILE_PX = 256  # side of the detector's square input
_EDGE_PX = 2.0  # a box this close to a tile's inner edge is cut; the neighbour sees the whole face
_SAME_FACE_IOU = 0.5  # less, and one box is only a part of the other: it must not drag the average


@dataclass(frozen=True, slots=True)
class Tile:
    """One network input: `pixels` (side, side, 3) uint8 RGB, black outside the image.

    Attributes:
        left: column of the tile's corner in its level.
        top: row of the tile's corner in its level.
        scale: (horizontal, vertical) image pixels per level pixel.
        inner: which sides (left, top, right, bottom) have more image beyond them.
    """

    pixels: NDArray[np.uint8]
    left: int
    top: int
    scale: tuple[float, float]
    inner: tuple[bool, bool, bool, bool]

    def to_image(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return boxes (x, y, width, height, ...) of this tile in image pixels, without those cut by an inner edge."""
        side = len(self.pixels)
        low, high = rows[:, :2], rows[:, :2] + rows[:, 2:4]
        cut = np.concatenate([low < _EDGE_PX, high > side - _EDGE_PX], axis=1) & np.array(self.inner)
        moved: NDArray[np.float64] = rows[~cut.any(axis=1)]
        moved[:, :2] += (self.left, self.top)
        moved[:, :4] *= self.scale * 2
        return moved


def cut_tiles(
    image: Image.Image, size: tuple[int, int], scales: list[float], side: int, overlap: int
) -> Iterator[Tile]:
    """Yield the tiles of every level.

    `image` is RGB, already reduced at will; `size` is the (width, height) it stands for, and `scales`
    are relative to that, falling: each level is made from the one before. Neighbouring tiles share at
    least `overlap` pixels.
    """
    for scale in scales:
        width, height = (max(1, round(length * scale)) for length in size)
        image = image.resize((width, height), Image.Resampling.BILINEAR)
        level = np.asarray(image)
        for top in _place_tiles(height, side, overlap):
            for left in _place_tiles(width, side, overlap):
                pixels = np.zeros((side, side, 3), np.uint8)
                part = level[max(0, top) : top + side, max(0, left) : left + side]
                row, column = max(0, -top), max(0, -left)
                pixels[row : row + part.shape[0], column : column + part.shape[1]] = part
                inner = (left > 0, top > 0, left + side < width, top + side < height)
                yield Tile(pixels, left, top, (size[0] / width, size[1] / height), inner)


def _place_tiles(length: int, side: int, overlap: int) -> list[int]:
    """Return where tiles start along an axis: evenly spread, or one around a shorter image."""
    if length <= side:
        return [(length - side) // 2]
    count = math.ceil((length - side) / (side - overlap)) + 1
    return [round(index * (length - side) / (count - 1)) for index in range(count)]


def cut_around(
    image: Image.Image, box: NDArray[np.float64], length: float, side: int
) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Return a tile around a box, black outside the image, and the box in it (x, y, width, height).

    `box` is (x, y, width, height) in pixels of `image`, which is RGB; its longer side gets `length` of the tile's
    `side` pixels.
    """
    window = max(1, round(box[2:4].max() * side / length))
    left, top = (math.floor(middle - window / 2) for middle in box[:2] + box[2:4] / 2)
    seen = (max(0, left), max(0, top), min(image.width, left + window), min(image.height, top + window))
    scale = side / window
    tile = Image.new("RGB", (side, side))
    if seen[0] < seen[2] and seen[1] < seen[3]:
        size = max(1, round((seen[2] - seen[0]) * scale)), max(1, round((seen[3] - seen[1]) * scale))
        part = image.resize(size, Image.Resampling.BILINEAR, box=seen)
        tile.paste(part, (round((seen[0] - left) * scale), round((seen[1] - top) * scale)))
    return np.asarray(tile), (box[:4] - (left, top, 0, 0)) * scale


def find_same(box: NDArray[np.float64], rows: NDArray[np.float64], min_iou: float) -> float:
    """Return the highest confidence of `rows` whose intersection with `box` over the union is enough; 0 for none."""
    return float(rows[_overlap(box, rows)[1] >= min_iou, 4].max(initial=0.0))


def merge_boxes(rows: NDArray[np.float64], min_confidence: float, max_overlap: float) -> NDArray[np.float64]:
    """Return one row (x, y, width, height, confidence) a face, most confident first.

    A row that shares more than `max_overlap` of the smaller box with a stronger row is the same face or
    a part of it. The nearly congruent ones are averaged, weighted by confidence, which steadies the box
    against small changes of the image (Bazarevsky et al. 2019, section 3.3). No matrix product: BLAS adds in
    another order on another CPU.
    """
    rows = rows[np.argsort(-rows[:, 4], kind="stable")]
    faces = []
    while len(rows) and rows[0, 4] >= min_confidence:
        of_smaller, of_union = _overlap(rows[0], rows)
        alike = of_union >= _SAME_FACE_IOU
        weight = rows[alike, 4]
        mean = (weight[:, np.newaxis] * rows[alike, :4]).sum(axis=0) / weight.sum()
        faces.append(np.append(mean, rows[0, 4]))
        rows = rows[of_smaller <= max_overlap]
    return np.array(faces).reshape(-1, 5)


def _overlap(row: NDArray[np.float64], rows: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return each box's intersection with `row` over the smaller area, and over the union."""
    low = np.maximum(rows[:, :2], row[:2])
    high = np.minimum(rows[:, :2] + rows[:, 2:4], row[:2] + row[2:4])
    shared = np.prod(np.clip(high - low, 0, None), axis=1)
    areas, area = np.prod(rows[:, 2:4], axis=1), np.prod(row[2:4])
    return shared / np.minimum(areas, area), shared / (areas + area - shared)
