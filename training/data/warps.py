"""Coordinate maps for resampling faces; the sole importer of imgaug.

imgaug 0.4.0 reads `np.sctypes` at import, which NumPy 2 removed: it is attached for the import only.
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
np.sctypes = _SCTYPES  # type: ignore[attr-defined]  # noqa: NPY201 - the seam itself
try:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # imgaug warns of its own deprecated imports
        from imgaug.augmenters import PiecewiseAffine
finally:
    del np.sctypes  # type: ignore[attr-defined]  # noqa: NPY201 - the seam itself

Map = NDArray[np.float32]


def identity_map(side: int) -> Map:
    """Return [side, side, 2]: at each pixel its own (x, y)."""
    axis = np.arange(side, dtype=np.float32)
    return np.stack(np.meshgrid(axis, axis), axis=-1)


def piecewise_affine_shift(side: int, scale: float, seed: int) -> Map:
    """Return how far each pixel of a piecewise affine warp comes from, [side, side, 2] as (x, y) pixels.

    imgaug warps an image of coordinates, in which bilinear interpolation is exact. Applying the shift
    then costs a hundredth of imgaug's time, and one sampler serves warped and untouched faces. The
    warp is made on a wider canvas, as imgaug repeats edge pixels, and streaks would give the class away.
    """
    pad = side // 6
    wide = side + 2 * pad
    coordinates = identity_map(wide) / wide  # scikit-image clips float images to 0..1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # imgaug calls a method that scikit-image renamed
        warp = PiecewiseAffine(scale=scale, nb_rows=5, nb_cols=5, order=1, mode="edge", seed=seed).to_deterministic()
        warped = [warp.augment_image(np.ascontiguousarray(coordinates[..., axis])) for axis in (0, 1)]
    shift = (np.stack(warped, axis=-1) - coordinates)[pad:-pad, pad:-pad] * wide
    return shift.astype(np.float32)
