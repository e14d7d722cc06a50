"""`exif_heads.npz`, an optional file of a bundle: linear heads that rank EXIF tags. Only explanations read it.

Shape suffixes: T tags in the order of `TAG_NAMES`, D features of the engine, Q quantiles.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ingest.exif import TAG_NAMES
from scorer.bundle.arrays import ArraySpec, InvalidArrays, read_arrays
from scorer.bundle.bundle import Bundle
from scorer.errors import BundleMismatch

EXIF_HEADS = "exif_heads.npz"
QUANTILES = 101
NO_LIMIT = 1.0  # no two ranks differ by more
_MAX_BYTES = 2**22
Matrix = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class ExifHeads:
    """The heads; photographs are those of the role `calibrate` with the tag, one face of each.

    Attributes:
        weights: [T, D]; `weights @ features` is higher for a higher tag.
        scores: [T, Q] quantiles of that number over the photographs.
        tags: [T, Q] quantiles of the tag.
        skill: [T, 3] share of pairs that the head orders rightly, and its 95 % interval by source.
        photographs: [T] their number; 0 where nothing could be measured.
        limits: [T] difference of both ranks that at most 1 % exceed; `NO_LIMIT` if the photographs are too few.
    """

    weights: Matrix
    scores: Matrix
    tags: Matrix
    skill: Matrix
    photographs: Matrix
    limits: Matrix


def rank_among(values: NDArray[np.floating], quantiles_Q: Matrix) -> Matrix:
    """Return for each value the share of ascending quantiles below it, 0..1; those that are equal count half."""
    below, at_most = (np.searchsorted(quantiles_Q, values, side) for side in ("left", "right"))
    ranks: Matrix = (below + at_most) / (2 * len(quantiles_Q))
    return ranks


def read_exif_heads(bundle: Bundle) -> ExifHeads | None:
    """Return the heads of a bundle; None if it has none, as bundles of earlier releases.

    Raises:
        BundleMismatch: the file has changed since the bundle was read, or is unusable.
    """
    record, path, tags = bundle.manifest.files.get(EXIF_HEADS), bundle.folder / EXIF_HEADS, len(TAG_NAMES)
    if record is None:
        return None
    sides = {"weights": bundle.manifest.feature_size, "scores": QUANTILES, "tags": QUANTILES, "skill": 3}
    wanted = {name: ArraySpec("f", ((tags, side),)) for name, side in sides.items()}
    wanted |= dict.fromkeys(("photographs", "limits"), ArraySpec("f", ((tags,),)))
    try:
        arrays = read_arrays(bundle.read(path) if record.bytes <= _MAX_BYTES else b"", wanted)
    except InvalidArrays as error:
        message = f"{path} cannot be used: {error}"
        raise BundleMismatch(message) from error
    heads = ExifHeads(**{name: values.astype(np.float64) for name, values in arrays.items()})
    shares = np.column_stack([heads.skill, heads.limits])
    if ((shares < 0) | (shares > 1)).any() or (np.diff([heads.scores, heads.tags]) < 0).any():
        message = f"{path} cannot be used: a share is not from 0 to 1, or quantiles descend"
        raise BundleMismatch(message)
    return heads
