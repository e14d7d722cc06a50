"""The conditions of a comparison: windows as stored, in one format, and along curves of one change each.

Every condition except "as stored" starts from the equal format (face at most 150 px, JPEG 90), so that a curve shows
one change only. Photographs and generated faces pass the same steps.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from scorer.strata import Stratum
from training.evaluation.detectors.base import Picture
from training.evaluation.detectors.windows import Windows
from training.evaluation.evaluate import find_strata
from training.evaluation.robustness import (
    AS_STORED,
    EQUAL_QUALITY,
    EQUALISED,
    Condition,
    blur,
    compress,
    list_conditions,
)

CURVES: Mapping[str, Mapping[str, str]] = {
    "JPEG quality": {"90": EQUALISED, "75": "JPEG 75", "50": "JPEG 50"},
    "size": {"1": EQUALISED, "3/4": "three quarters", "1/2": "half size"},
    "blur (sigma, px)": {"0": EQUALISED, "1": "blur, then JPEG 90", "2": "blur 2 px, then JPEG 90"},
    "screenshot": {"before": EQUALISED, "after": "screenshot"},
}
"""By curve, the names of its conditions by their places on the axis."""


@dataclass(frozen=True, slots=True)
class WindowCondition:
    """How the windows of faces are processed before a detector gets them.

    Attributes:
        name: in tables and in the folders of cached scores.
        condition: the processing; None leaves windows as they are.
    """

    name: str
    condition: Condition | None = None

    def process(self, picture: Picture, short_side: float, row: int) -> Picture:
        """Return the window [H, W, 3] of the face `row`, whose short side in its file is `short_side` pixels."""
        if self.condition is None:
            return picture
        return self.condition.process(picture, short_side, max(picture.shape[:2]) / short_side, row)

    def find_scored(self, windows: Windows) -> NDArray[np.bool_]:
        """Return which faces [N] the default policy still scores."""
        if self.condition is None:
            return np.ones(len(windows), dtype=np.bool_)
        return self.condition.find_scored(windows.short_sides)

    def find_strata(self, windows: Windows) -> list[Stratum]:
        """Return the stratum of each processed face."""
        if self.condition is None:
            return find_strata(windows.short_sides, windows.jpeg_qualities)
        return self.condition.find_strata(windows.short_sides)

    def digest(self) -> bytes:
        """Return a digest that differs if the processing does: that of a processed pattern."""
        pattern = np.random.default_rng(0).integers(0, 256, (320, 280, 3)).astype(np.uint8)
        processed = [self.process(pattern, short_side, row) for row, short_side in enumerate((240.0, 120.0))]
        return hashlib.sha256(b"".join(picture.tobytes() for picture in processed)).digest()


def list_window_conditions(*, curves: bool = True) -> dict[str, WindowCondition]:
    """Return the conditions by name: as stored, in one format and, with `curves`, those of `CURVES`."""
    jpeg = partial(compress, kind="JPEG", quality=EQUAL_QUALITY)
    known = {condition.name: condition for condition in list_conditions()}
    known["three quarters"] = Condition("three quarters", (jpeg,), EQUAL_QUALITY, scale=0.75)
    known["blur 2 px, then JPEG 90"] = Condition(
        "blur 2 px, then JPEG 90", (partial(blur, sigma_px=2.0), jpeg), EQUAL_QUALITY
    )
    names = dict.fromkeys(name for points in CURVES.values() for name in points.values()) if curves else [EQUALISED]
    return {AS_STORED: WindowCondition(AS_STORED)} | {name: WindowCondition(name, known[name]) for name in names}
