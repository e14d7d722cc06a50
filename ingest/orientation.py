"""Applies the EXIF orientation: decoders return stored pixels, all other code uses upright ones."""

import numpy as np
from numpy.typing import NDArray

from ingest.probe import ImageInfo
from ingest.spec import Window

# orientation -> (transpose first, then flip left-right, then flip top-bottom), EXIF 2.32 section 4.6.2
_TURNS = {
    1: (False, False, False),
    2: (False, True, False),
    3: (False, True, True),
    4: (False, False, True),
    5: (True, False, False),
    6: (True, True, False),
    7: (True, True, True),
    8: (True, False, True),
}


def turn_upright(stored: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Return `stored` pixels (H, W, 3) as a contiguous upright array; a view where no pixel moves."""
    transposed, mirrored, upside_down = _TURNS[orientation]
    upright = stored.transpose(1, 0, 2) if transposed else stored
    upright = upright[:, ::-1] if mirrored else upright
    return np.ascontiguousarray(upright[::-1] if upside_down else upright)


def find_stored_window(window: Window, info: ImageInfo) -> Window:
    """Return the upright `window` in stored coordinates: the inverse of `turn_upright` for a rectangle."""
    transposed, mirrored, upside_down = _TURNS[info.orientation]
    left = info.width - window.left - window.width if mirrored else window.left
    top = info.height - window.top - window.height if upside_down else window.top
    if transposed:
        return Window(top, left, window.height, window.width)
    return Window(left, top, window.width, window.height)


def turn_matrix(orientation: int, size: int) -> NDArray[np.float32]:
    """Return the affine map [2, 3] from points of an upright crop (`size` x `size` pixels) to those of the stored one.

    It is `turn_upright` in the form that a warp takes: one operation for all orientations.
    """
    transposed, mirrored, upside_down = _TURNS[orientation]
    across = (-1, 0, size) if mirrored else (1, 0, 0)
    down = (0, -1, size) if upside_down else (0, 1, 0)
    return np.array([down, across] if transposed else [across, down], np.float32)
