"""The laws of the crop window and of face boxes."""

import json
import math
from dataclasses import asdict

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from ingest.spec import FaceBox, PreprocessSpec, Window, crop_window

SPEC = PreprocessSpec()
SIDES = st.integers(1, 5000)
CORNERS = st.floats(-3000, 8000)
LENGTHS = st.floats(0.01, 4000)
BOXES = st.builds(FaceBox, CORNERS, CORNERS, LENGTHS, LENGTHS)


@given(BOXES, SIDES, SIDES)
def test_a_window_lies_in_the_image_and_contains_its_box(box: FaceBox, width: int, height: int) -> None:
    """For any box, the window is inside the image and contains the part of the box that is."""
    window = crop_window(box, width, height, SPEC)
    assume(window is not None)
    assert window is not None
    assert 0 <= window.left < window.left + window.width <= width
    assert 0 <= window.top < window.top + window.height <= height
    assert window.left <= max(0, box.x)
    assert window.top <= max(0, box.y)
    assert window.left + window.width >= min(width, box.x + box.width)
    assert window.top + window.height >= min(height, box.y + box.height)


@given(BOXES, SIDES, SIDES)
def test_no_window_means_that_the_box_is_outside_the_image(box: FaceBox, width: int, height: int) -> None:
    """None is returned exactly if the square around the box shares no pixel with the image."""
    half = max(box.width, box.height) * SPEC.margin / 2
    x, y = box.x + box.width / 2, box.y + box.height / 2
    misses = x + half <= 0 or y + half <= 0 or math.floor(x - half) >= width or math.floor(y - half) >= height
    assert (crop_window(box, width, height, SPEC) is None) == misses


@given(st.floats(1000, 2000), st.floats(1000, 2000), st.floats(1, 500), st.floats(1, 500))
def test_a_window_away_from_edges_is_square_to_a_pixel(x: float, y: float, width: float, height: float) -> None:
    """A window that is not clipped is 1.3 times the longer side, widened to whole pixels."""
    window = crop_window(FaceBox(x, y, width, height), 5000, 5000, SPEC)
    assert window is not None
    side = 1.3 * max(width, height)
    assert side - 1e-6 <= window.width < side + 2
    assert side - 1e-6 <= window.height < side + 2


def test_a_window_by_hand() -> None:
    """One box, computed by hand: 100 x 80 at (50, 60) in 120 x 400, margin 1.3."""
    assert crop_window(FaceBox(50, 60, 100, 80), 120, 400, SPEC) == Window(35, 35, 85, 130)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("index", range(4))
def test_a_box_is_finite(bad: float, index: int) -> None:
    """A coordinate that is not a finite number is refused, and the message states it."""
    values = [1.0, 2.0, 3.0, 4.0]
    values[index] = bad
    with pytest.raises(ValueError, match="not a finite number"):
        FaceBox(*values)


@pytest.mark.parametrize(("width", "height"), [(0, 5), (5, 0), (-1, 5)])
def test_a_box_has_an_area(width: float, height: float) -> None:
    """A side that is not positive is refused, and the message states it."""
    with pytest.raises(ValueError, match="no area"):
        FaceBox(0, 0, width, height)


def test_a_spec_is_equal_after_json() -> None:
    """A spec that is written to JSON and read back is equal."""
    spec = PreprocessSpec(size=160, margin=1.1)
    assert PreprocessSpec.from_json(json.loads(json.dumps(asdict(spec)))) == spec


def test_a_spec_of_another_version_is_refused() -> None:
    """A field that this version does not know means that the bundle is of another version."""
    with pytest.raises(TypeError):
        PreprocessSpec.from_json({**asdict(SPEC), "gamma": 2.2})


@given(BOXES, SIDES, SIDES)
def test_the_visible_part_lies_in_both(box: FaceBox, width: int, height: int) -> None:
    """The clipped box lies in the box and in the image; it is the box itself if nothing is cut, and None outside."""
    visible = box.clip(width, height)
    assert box.visible_short_side(width, height) == (min(visible.width, visible.height) if visible else 0)
    if visible is None:
        assert box.x >= width or box.y >= height or box.x + box.width <= 0 or box.y + box.height <= 0
        return
    assert visible.x >= 0
    assert visible.y >= 0
    assert visible.x + visible.width <= width + 1e-6
    assert visible.y + visible.height <= height + 1e-6
    assert visible.area <= box.area * (1 + 1e-9)
    if box.x >= 0 and box.y >= 0 and box.x + box.width <= width and box.y + box.height <= height:
        assert visible.as_tuple() == pytest.approx(box.as_tuple())


def test_a_visible_part_by_hand() -> None:
    """A box that crosses two edges of the image keeps the part inside."""
    assert FaceBox(-20, 350, 100, 80).clip(120, 400) == FaceBox(0, 350, 80, 50)
    assert FaceBox(120, 10, 5, 5).clip(120, 400) is None
