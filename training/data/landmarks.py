"""The 68 facial landmarks that locate the manipulations: the protocol of their finders, and the parts of a face."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

RIGHT_EYE, LEFT_EYE, MOUTH = slice(36, 42), slice(42, 48), slice(48, 68)
FACE_ALIGNMENT = "face-alignment"

Box = tuple[float, float, float, float]
Crop = NDArray[np.uint8]
Points = NDArray[np.float32]


class Landmarker(Protocol):
    """Finds the 68 points of iBUG 300-W on a face."""

    @property
    def name(self) -> str:
        """The name that the run folder records, so that faces of two landmarkers are never mixed."""

    def find(self, crop: Crop, box: Box) -> Points:
        """Return [68, 2] points in pixels of `crop`, [S, S, 3] RGB, for the face box (x, y, width, height) in it."""
