"""`calibration.npz`: the log-likelihoods of held-out photographs, together and by stratum."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from scorer.bundle.arrays import ArraySpec, InvalidArrays, read_arrays, write_arrays
from scorer.bundle.manifest import LEAST_STRATUM_PHOTOGRAPHS, Manifest, StratumSize
from scorer.decide import Calibration
from scorer.errors import BundleMismatch
from scorer.mixture import round_nats
from scorer.strata import Stratum

POOLED = "log_likelihoods"  # the array of all held-out faces; `log_likelihoods_<stratum>` are those of a stratum
_MAX_BYTES = 2**27


def read_calibration(path: Path, data: bytes, manifest: Manifest) -> Calibration:
    """Return the calibration in `data`, the content of the file at `path`.

    Raises:
        BundleMismatch: an array is missing, is not of the size that the manifest states, or is not in ascending order.
    """
    sizes = {POOLED: manifest.calibration_size}
    sizes |= {_name(stratum): size.faces for stratum, size in manifest.calibration_strata.items()}
    try:
        arrays = read_arrays(data, {name: ArraySpec("f", ((faces,),), _MAX_BYTES) for name, faces in sizes.items()})
    except InvalidArrays as error:
        message = f"{path} cannot be used: {error}"
        raise BundleMismatch(message) from error
    for name, values in arrays.items():
        if (np.diff(values) < 0).any():
            message = f"{path} is not in ascending order: array {name}"
            raise BundleMismatch(message)
    rounded: dict[str, NDArray[np.float64]] = {
        name: round_nats(values.astype(np.float64)) for name, values in arrays.items()
    }
    strata = {stratum: rounded[_name(stratum)] for stratum in manifest.calibration_strata}
    return Calibration(rounded[POOLED], strata)


def write_calibration(path: Path, calibration: Calibration) -> None:
    """Write `calibration.npz`; `make_manifest_fields` returns what the manifest states of it."""
    arrays = {POOLED: calibration.pooled} | {_name(each): values for each, values in calibration.strata.items()}
    write_arrays(path, arrays)


def load_calibration(path: Path) -> Calibration:
    """Return what `write_calibration` wrote; for a file of this machine that no manifest describes yet."""
    with np.load(path, allow_pickle=False) as arrays:
        strata = {stratum: arrays[_name(stratum)] for stratum in Stratum if _name(stratum) in arrays.files}
        return Calibration(arrays[POOLED], strata)


def make_manifest_fields(
    calibration: Calibration, photographs: int, stratum_photographs: Mapping[Stratum, int]
) -> dict[str, object]:
    """Return the fields of the manifest that state the calibration.

    Args:
        calibration: the content of `calibration.npz`.
        photographs: how many contain the faces of `calibration.pooled`.
        stratum_photographs: how many contain those of each stratum, or their originals.
    """
    return {
        "calibration_id": make_calibration_id(calibration),
        "calibration_size": len(calibration.pooled),
        "calibration_photographs": photographs,
        "calibration_strata": {
            stratum: StratumSize(faces=len(values), photographs=stratum_photographs[stratum])
            for stratum, values in calibration.strata.items()
        },
    }


def split_by_stratum(
    values_N: NDArray[np.float64], photos_N: NDArray[np.str_], strata_N: NDArray[np.str_]
) -> tuple[dict[Stratum, NDArray[np.float64]], dict[Stratum, int]]:
    """Return the ascending log-likelihoods of each sufficient stratum, and the number of photographs of every stratum.

    A stratum with fewer than `LEAST_STRATUM_PHOTOGRAPHS` photographs is left out: its faces are scored against all
    photographs.

    Args:
        values_N: log-likelihoods of held-out faces in nats.
        photos_N: the photograph of each; copies of one photograph have one name.
        strata_N: the stratum of each.
    """
    photographs = {
        stratum: len(np.unique(photos_N[strata_N == stratum.value]))
        for stratum in Stratum
        if (strata_N == stratum.value).any()
    }
    sufficient = [stratum for stratum, count in photographs.items() if count >= LEAST_STRATUM_PHOTOGRAPHS]
    return {stratum: np.sort(values_N[strata_N == stratum.value]) for stratum in sufficient}, photographs


def make_calibration_id(calibration: Calibration) -> str:
    """Return a short id, a digest of the values."""
    digest = hashlib.sha256(calibration.pooled.astype("<f8").tobytes())
    for stratum in sorted(calibration.strata):
        digest.update(stratum.encode() + calibration.strata[stratum].astype("<f8").tobytes())
    return digest.hexdigest()[:12]


def _name(stratum: Stratum) -> str:
    return f"{POOLED}_{stratum}"
