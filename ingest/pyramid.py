"""Cuts an image into tiles at several scales, and merges the boxes found in them into faces."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

TILE_PX = 256  # side of the detector's square input
_EDGE_PX = 2.0  # a box this close to a tile's inner edge is cut; the neighbouring tile contains the whole face
_SAME_FACE_IOU = 0.5  # below, one box is only a part of the other, and is left out of the average


@dataclass(frozen=True, slots=True)
class Tile:
    """One network input: `pixels` (height, width, 3) uint8 RGB, black outside the image.

    Attributes:
        left: column of the tile's corner in its level.
        top: row of the tile's corner in its level.
        scale: (horizontal, vertical) image pixels per level pixel.
        inner: for each side (left, top, right, bottom), whether the image continues beyond it.
    """

    pixels: NDArray[np.uint8]
    left: int
    top: int
    scale: tuple[float, float]
    inner: tuple[bool, bool, bool, bool]

    def to_image(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return boxes (x, y, width, height, ...) of this tile in image pixels, without those cut by an inner edge."""
        size = np.array(self.pixels.shape[1::-1])
        low, high = rows[:, :2], rows[:, :2] + rows[:, 2:4]
        cut = np.concatenate([low < _EDGE_PX, high > size - _EDGE_PX], axis=1) & np.array(self.inner)
        moved: NDArray[np.float64] = rows[~cut.any(axis=1)]
        moved[:, :2] += (self.left, self.top)
        moved[:, :4] *= self.scale * 2
        return moved


def cut_tiles(
    image: Image.Image, size: tuple[int, int], scales: list[float], tiles: Sequence[tuple[int, int]], overlap: int
) -> Iterator[Tile]:
    """Yield the tiles of every level.

    `image` is RGB and may be reduced; `size` is its full (width, height). `scales` are relative to `size`, descending:
    each level is made from the level before. A level has tiles of one of the sizes (width, height) of `tiles`, the one
    with which they have the fewest pixels. Neighbouring tiles share at least `overlap` pixels.
    """
    for scale in scales:
        width, height = (max(1, round(length * scale)) for length in size)
        image = image.resize((width, height), Image.Resampling.BILINEAR)
        level = np.asarray(image)
        lefts, tops, (across, down) = min(
            ((_place_tiles(width, w, overlap), _place_tiles(height, h, overlap), (w, h)) for w, h in tiles),
            key=lambda grid: len(grid[0]) * len(grid[1]) * grid[2][0] * grid[2][1],
        )
        for top in tops:
            for left in lefts:
                pixels = np.zeros((down, across, 3), np.uint8)
                part = level[max(0, top) : top + down, max(0, left) : left + across]
                row, column = max(0, -top), max(0, -left)
                pixels[row : row + part.shape[0], column : column + part.shape[1]] = part
                inner = (left > 0, top > 0, left + across < width, top + down < height)
                yield Tile(pixels, left, top, (size[0] / width, size[1] / height), inner)


def _place_tiles(length: int, side: int, overlap: int) -> list[int]:
    """Return the starts of tiles along an axis: evenly spaced, or one tile around a shorter image."""
    if length <= side:
        return [(length - side) // 2]
    count = math.ceil((length - side) / (side - overlap)) + 1
    return [round(index * (length - side) / (count - 1)) for index in range(count)]


def cut_tile_around(
    image: Image.Image, box: NDArray[np.float64], length: float, side: int
) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Return a tile around a box, black outside the image, and the box in it (x, y, width, height).

    `box` is (x, y, width, height) in pixels of the RGB `image`. Its longer side gets `length` of the tile's `side`
    pixels.
    """
    window = max(1, round(box[2:4].max() * side / length))
    left, top = (math.floor(centre - window / 2) for centre in box[:2] + box[2:4] / 2)
    x0, y0, x1, y1 = max(0, left), max(0, top), min(image.width, left + window), min(image.height, top + window)
    scale = side / window
    tile = Image.new("RGB", (side, side))
    if x0 < x1 and y0 < y1:
        size = max(1, round((x1 - x0) * scale)), max(1, round((y1 - y0) * scale))
        part = image.resize(size, Image.Resampling.BILINEAR, box=(x0, y0, x1, y1))
        tile.paste(part, (round((x0 - left) * scale), round((y0 - top) * scale)))
    return np.asarray(tile), (box[:4] - (left, top, 0, 0)) * scale


def find_matching_confidence(box: NDArray[np.float64], rows: NDArray[np.float64], min_iou: float) -> float:
    """Return the highest confidence of `rows` with at least `min_iou` with `box`; 0 if there is none."""
    return float(rows[_overlap(box, rows)[1] >= min_iou, 4].max(initial=0.0))


def merge_boxes(rows: NDArray[np.float64], min_confidence: float, max_overlap: float) -> NDArray[np.float64]:
    """Return one row (x, y, width, height, confidence) for each face, most confident first.

    If a row and a more confident one share more than `max_overlap` of the smaller box, they are one face, or one is a
    part of it. Nearly congruent boxes are averaged, weighted by confidence, so that the box changes little with small
    changes of the image (Bazarevsky et al. 2019, section 3.3). Without a matrix product: the order in which BLAS adds
    depends on the CPU.
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
    """Return each box's intersection with `row` divided by the smaller area, and divided by the union."""
    low = np.maximum(rows[:, :2], row[:2])
    high = np.minimum(rows[:, :2] + rows[:, 2:4], row[:2] + row[2:4])
    shared = np.prod(np.clip(high - low, 0, None), axis=1)
    areas, area = np.prod(rows[:, 2:4], axis=1), np.prod(row[2:4])
    return shared / np.minimum(areas, area), shared / (areas + area - shared)
