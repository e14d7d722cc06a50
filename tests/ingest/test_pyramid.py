"""Laws of the pyramid: each small box is whole in a tile, and merging depends only on the set of boxes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ingest.detect import TILES, DetectorSpec, plan_scales
from ingest.pyramid import cut_tile_around, cut_tiles, find_matching_confidence, merge_boxes

SIDE, OVERLAP = 64, 20
SIDES = st.integers(1, 400)
BOXES = st.lists(
    st.tuples(st.floats(0, 300), st.floats(0, 300), st.floats(5, 100), st.floats(5, 100)), min_size=1, max_size=12
)


@given(width=SIDES, height=SIDES, data=st.data())
def test_every_small_box_lies_in_one_tile(width: int, height: int, data: st.DataObject) -> None:
    """A box no larger than the overlap, at any position, is whole in at least one tile."""
    left = data.draw(st.integers(0, max(0, width - OVERLAP)))
    top = data.draw(st.integers(0, max(0, height - OVERLAP)))
    right, bottom = min(width, left + OVERLAP), min(height, top + OVERLAP)
    tiles = cut_tiles(Image.new("RGB", (width, height)), (width, height), [1.0], [(SIDE, SIDE)], OVERLAP)
    assert any(
        tile.left <= left and right <= tile.left + SIDE and tile.top <= top and bottom <= tile.top + SIDE
        for tile in tiles
    )


@given(width=SIDES, height=SIDES, seed=st.integers(0, 99))
def test_tiles_contain_the_image_at_their_position(width: int, height: int, seed: int) -> None:
    """The pixels of a tile are those of the image at its position, and black outside."""
    pixels = np.random.default_rng(seed).integers(1, 256, (height, width, 3), np.uint8)
    for tile in cut_tiles(Image.fromarray(pixels), (width, height), [1.0], [(SIDE, SIDE)], OVERLAP):
        rows, columns = np.arange(SIDE) + tile.top, np.arange(SIDE) + tile.left
        inside = ((rows >= 0) & (rows < height))[:, None] & ((columns >= 0) & (columns < width))[None, :]
        expected = pixels[np.clip(rows, 0, height - 1)][:, np.clip(columns, 0, width - 1)] * inside[..., None]
        np.testing.assert_array_equal(tile.pixels, expected)


def test_boxes_are_converted_to_image_pixels() -> None:
    """A box in a tile of a reduced level gets its position in the image; one that an inner edge cuts is dropped."""
    tiles = list(cut_tiles(Image.new("RGB", (300, 200)), (3000, 2000), [0.1], [(SIDE, SIDE)], OVERLAP))
    corner = tiles[0]
    rows = np.array([[10.0, 12, 20, 22, 0.9], [50, 10, 13.5, 20, 0.9], [0.5, 0.5, 20, 20, 0.9]])
    np.testing.assert_allclose(corner.to_image(rows), [[100, 120, 200, 220, 0.9], [5, 5, 200, 200, 0.9]])


@given(width=SIDES, height=SIDES, seed=st.integers(0, 99), box=BOXES.map(lambda boxes: np.array(boxes[0])))
def test_a_tile_around_a_box_has_it_in_the_centre(
    width: int, height: int, seed: int, box: np.ndarray[tuple[int], np.dtype[np.float64]]
) -> None:
    """The box keeps its proportions, gets the requested length except for rounding, and lies in the centre."""
    pixels = np.random.default_rng(seed).integers(1, 256, (height, width, 3), np.uint8)
    tile, placed = cut_tile_around(Image.fromarray(pixels), box, length=20, side=SIDE)
    assert tile.shape == (SIDE, SIDE, 3)
    window = max(1, round(max(box[2:]) * SIDE / 20))
    assert placed[2:] == pytest.approx(box[2:] * SIDE / window)
    assert placed[:2] + placed[2:] / 2 == pytest.approx([SIDE / 2, SIDE / 2], abs=SIDE / window + 1e-6)
    outside = box[0] > width + window or box[1] > height + window
    assert not (outside and tile.any())


def test_a_tile_around_a_box_contains_the_picture_at_its_position() -> None:
    """At the picture's own scale, the pixels are those of the picture, shifted by whole pixels."""
    pixels = np.random.default_rng(0).integers(1, 256, (90, 80, 3), np.uint8)
    tile, placed = cut_tile_around(Image.fromarray(pixels), np.array([10.0, 20.0, 20.0, 16.0]), length=20, side=SIDE)
    expected = np.zeros((SIDE, SIDE, 3), np.uint8)
    expected[4:, 12:] = pixels[: SIDE - 4, : SIDE - 12]
    np.testing.assert_array_equal(tile, expected)
    np.testing.assert_allclose(placed, [22, 24, 20, 16])


def test_the_matching_box_is_the_most_confident_that_overlaps() -> None:
    """The most confident of the boxes that overlap enough counts, not a more confident one elsewhere."""
    rows = np.array([[0, 0, 10, 10, 0.6], [1, 1, 10, 10, 0.7], [50, 50, 10, 10, 0.9]])
    assert find_matching_confidence(np.array([0.0, 0, 10, 10]), rows, 0.3) == 0.7
    assert find_matching_confidence(np.array([20.0, 20, 10, 10]), rows, 0.3) == 0.0
    assert find_matching_confidence(np.array([0.0, 0, 10, 10]), rows[:0], 0.3) == 0.0


@given(boxes=BOXES, seed=st.integers(0, 99))
def test_merging_ignores_the_order(boxes: list[tuple[float, ...]], seed: int) -> None:
    """Shuffled rows of distinct confidences give the same faces, most confident first, and no more than rows."""
    confidence = np.linspace(0.5, 1, len(boxes))[:, None]
    rows = np.concatenate([np.array(boxes), confidence], axis=1)
    merged = merge_boxes(rows, min_confidence=0.6, max_overlap=0.5)
    again = merge_boxes(np.random.default_rng(seed).permutation(rows), min_confidence=0.6, max_overlap=0.5)
    np.testing.assert_array_equal(merged, again)
    assert (np.diff(merged[:, 4]) < 0).all()
    assert len(merged) <= (rows[:, 4] >= 0.6).sum()


def test_near_copies_become_their_weighted_mean() -> None:
    """Two boxes of one face are averaged by confidence; a part of the face is dropped; a distant box stays."""
    rows = np.array([[0, 0, 100, 100, 0.9], [4, 4, 100, 100, 0.6], [30, 30, 30, 30, 0.8], [500, 0, 50, 50, 0.7]])
    merged = merge_boxes(rows, min_confidence=0.7, max_overlap=0.5)
    np.testing.assert_allclose(merged, [[1.6, 1.6, 100, 100, 0.9], [500, 0, 50, 50, 0.7]])


@given(width=st.integers(32, 30_000), height=st.integers(32, 30_000))
def test_levels_cover_all_sizes_of_faces(width: int, height: int) -> None:
    """Levels get smaller; the first is not enlarged and fits a tile or `max_level_pixels`; the last fits any face."""
    spec = DetectorSpec()
    scales = plan_scales((width, height), spec, spec.min_face_px)
    assert scales == sorted(scales, reverse=True)
    assert 0 < scales[0] <= 1
    sides = np.array((width, height)) * scales[0]
    assert sides.prod() <= spec.max_level_pixels * 1.001 or any(
        (sides <= np.array(tile) * 1.001).all() for tile in TILES
    )
    assert min(width, height) * scales[-1] <= spec.network_face_px[1] * 1.001
