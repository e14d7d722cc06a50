"""Coordinate maps for resampling faces. No other module imports imgaug.

imgaug 0.4.0 reads `np.sctypes` during its import, which NumPy 2 removed. This module adds it for the import only.
"""

import warnings

import numpy as np
from numpy.typing import NDArray

_SCTYPES = {
    "int": [np.int8, np.int16, np.int32, np.int64],
    "uint": [np.uint8, np.uint16, np.uint32, np.uint64],
    "float": [np.float16, np.float32, np.float64],
    "complex": [np.complex64, np.complex128],
    "others": [bool, object, bytes, str, np.void],
}
np.sctypes = _SCTYPES  # type: ignore[attr-defined]  # noqa: NPY201 - imgaug needs it
try:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # imgaug's own deprecated imports
        from imgaug.augmenters import PiecewiseAffine
finally:
    del np.sctypes  # type: ignore[attr-defined]  # noqa: NPY201 - added above

Map = NDArray[np.float32]
GRID = 5  # points of the warp's grid along a side of the crop


def identity_map(side: int) -> Map:
    """Return [side, side, 2]: the coordinates (x, y) of each pixel."""
    axis = np.arange(side, dtype=np.float32)
    return np.stack(np.meshgrid(axis, axis), axis=-1)


def piecewise_affine_shift(side: int, scale: float, seed: int) -> Map:
    """Return the offset to where each pixel of a piecewise affine warp comes from, [side, side, 2] as (x, y) in pixels.

    The warp is imgaug's for a crop of `side` pixels: 5 x 5 grid points, which are moved with a standard deviation of
    `scale` times `side`. imgaug warps an image of coordinates, in which bilinear interpolation is exact. Applying the
    offsets then takes a hundredth of imgaug's time, and one sampler processes warped and untouched faces. The warp is
    made on a larger canvas, with one more row of points on each side: imgaug repeats edge pixels, and such streaks
    would reveal the class.
    """
    pad = side // (GRID - 1)
    canvas = side + 2 * pad
    coordinates = identity_map(canvas) / canvas  # scikit-image clips float images to 0..1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # imgaug uses a name that scikit-image changed
        points = {"nb_rows": GRID + 2, "nb_cols": GRID + 2}
        warp = PiecewiseAffine(scale=scale * side / canvas, order=1, mode="edge", seed=seed, **points)
        warped: Map = warp.augment_image(coordinates)
    return ((warped - coordinates)[pad:-pad, pad:-pad] * canvas).astype(np.float32)
