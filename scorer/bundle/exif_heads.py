"""`exif_heads.npz`, an optional file of a bundle: linear heads that rank EXIF tags. Only explanations read it.

Shape suffixes: T tags in the order of `TAG_NAMES`, D features of the engine, Q quantiles.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ingest.exif import TAG_NAMES
from scorer.bundle.arrays import ArraySpec, InvalidArrays, Shape, read_arrays
from scorer.bundle.bundle import Bundle
from scorer.errors import BundleMismatch

EXIF_HEADS = "exif_heads.npz"
QUANTILES = 101
NO_LIMIT = 1.0  # no two ranks differ by more
_MAX_BYTES = 2**22
Matrix = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class ExifHeads:
    """The heads of four tags; photographs are those of the role `calibrate` with the tag, one face of each.

    Attributes:
        weights: [T, D]; `weights @ features` is higher for a higher tag.
        scores: [T, Q] quantiles of that number over the photographs, ascending.
        tags: [T, Q] quantiles of the tag over the same photographs.
        skill: [T, 3] share of pairs of photographs that the head orders rightly, and its 95 % interval by source.
        counts: [T, 2] photographs and their sources; zeros where nothing could be measured.
        limits: [T] difference of the two ranks that at most 1 % of photographs exceed; `NO_LIMIT` if they are too few.
    """

    weights: Matrix
    scores: Matrix
    tags: Matrix
    skill: Matrix
    counts: Matrix
    limits: Matrix

    @property
    def used(self) -> NDArray[np.bool_]:
        """Whether each head is better than chance: its interval lies above a half."""
        better: NDArray[np.bool_] = self.skill[:, 1] > 0.5  # noqa: PLR2004 - chance
        return better


def rank_among(values: NDArray[np.floating], quantiles_Q: Matrix) -> Matrix:
    """Return for each value the share of ascending quantiles below it, 0..1; those that are equal count half."""
    sides = [np.searchsorted(quantiles_Q, values, side) for side in ("left", "right")]
    ranks: Matrix = (sides[0] + sides[1]) / (2 * len(quantiles_Q))
    return ranks


def read_exif_heads(bundle: Bundle) -> ExifHeads | None:
    """Return the heads of a bundle; None if it has none, as bundles of earlier releases.

    Raises:
        BundleMismatch: the file has changed since the bundle was read, or is unusable.
    """
    record, path, tags = bundle.manifest.files.get(EXIF_HEADS), bundle.folder / EXIF_HEADS, len(TAG_NAMES)
    if record is None:
        return None
    shapes: dict[str, Shape] = {
        "weights": (tags, bundle.manifest.feature_size),
        "scores": (tags, QUANTILES),
        "tags": (tags, QUANTILES),
        "skill": (tags, 3),
        "counts": (tags, 2),
        "limits": (tags,),
    }
    try:
        data = bundle.read(path) if record.bytes <= _MAX_BYTES else b""
        arrays = read_arrays(data, {name: ArraySpec("f", (shape,)) for name, shape in shapes.items()})
    except InvalidArrays as error:
        message = f"{path} cannot be used: {error}"
        raise BundleMismatch(message) from error
    heads = ExifHeads(**{name: values.astype(np.float64) for name, values in arrays.items()})
    shares = np.column_stack([heads.skill, heads.limits])
    if ((shares < 0) | (shares > 1)).any() or (np.diff([heads.scores, heads.tags]) < 0).any():
        message = f"{path} cannot be used: its shares must lie between 0 and 1, and its quantiles must ascend"
        raise BundleMismatch(message)
    return heads
