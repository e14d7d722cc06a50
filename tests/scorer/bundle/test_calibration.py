"""`calibration.npz`: written, read, and split by stratum."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scorer.bundle.bundle import Bundle, read_bundle
from scorer.bundle.calibration import (
    load_calibration,
    make_calibration_id,
    make_manifest_fields,
    split_by_stratum,
    write_calibration,
)
from scorer.bundle.manifest import LEAST_STRATUM_PHOTOGRAPHS
from scorer.decide import Calibration
from scorer.errors import BundleMismatch
from scorer.strata import Stratum
from tests.scorer.bundle.malformed_bundles import read_manifest, record, write_manifest

VALUES = np.arange(80, dtype=np.float64)


def add_stratum(folder: Path, starter: Bundle, values: np.ndarray = VALUES, photographs: int = 75) -> None:
    """Write the starter's calibration with a stratum `small_low_quality` of these values."""
    calibration = Calibration(starter.model.calibration.pooled, {Stratum.SMALL_LOW_QUALITY: values})
    write_calibration(folder / "calibration.npz", calibration)
    fields = make_manifest_fields(calibration, 78, {Stratum.SMALL_LOW_QUALITY: 75})
    fields["calibration_strata"] = {"small_low_quality": {"faces": 80, "photographs": photographs}}
    write_manifest(folder, read_manifest(folder) | fields)
    record(folder, "calibration.npz")


def test_a_bundle_without_strata_has_one_calibration(copy: Path, starter: Bundle) -> None:
    """A bundle of an earlier release scores all faces against all photographs."""
    manifest = read_manifest(copy)
    manifest.pop("calibration_strata", None)
    write_manifest(copy, manifest)
    bundle = read_bundle(copy)
    np.testing.assert_array_equal(bundle.model.calibration.pooled, starter.model.calibration.pooled)
    assert bundle.model.calibration.strata == {}
    assert bundle.manifest.calibration == (manifest["calibration_size"], manifest["calibration_photographs"], None)


def test_strata_are_read_as_they_were_written(copy: Path, starter: Bundle) -> None:
    """The pooled values are unchanged, and the smallest part limits the rates."""
    add_stratum(copy, starter)
    bundle = read_bundle(copy)
    np.testing.assert_array_equal(bundle.model.calibration.pooled, starter.model.calibration.pooled)
    np.testing.assert_array_equal(bundle.model.calibration.strata[Stratum.SMALL_LOW_QUALITY], VALUES)
    assert bundle.manifest.calibration == (80, 75, Stratum.SMALL_LOW_QUALITY)
    loaded = load_calibration(copy / "calibration.npz")
    assert make_calibration_id(loaded) == bundle.manifest.calibration_id


@pytest.mark.parametrize(
    ("values", "photographs", "sentence"),
    [
        (VALUES[::-1], 75, "not in ascending order: array log_likelihoods_small_low_quality"),
        (VALUES[:79], 75, r"array log_likelihoods_small_low_quality has the shape \(79,\), not \(80\)"),
        (np.append(VALUES[:79], np.nan), 75, "contains a number that is not finite"),
        (VALUES, 81, "80 calibration faces cannot be of 81 photographs"),
        (VALUES, 71, "small_low_quality has 71 photographs, fewer than 72"),
    ],
)
def test_an_unusable_stratum_is_refused(
    copy: Path, starter: Bundle, values: np.ndarray, photographs: int, sentence: str
) -> None:
    """A stratum that contradicts its manifest, or is too small, is a sentence that names it."""
    add_stratum(copy, starter, values, photographs)
    with pytest.raises(BundleMismatch, match=sentence):
        read_bundle(copy)


@pytest.mark.parametrize("changed", ["pooled", "stratum"])
def test_the_calibration_id_depends_on_the_values(changed: str) -> None:
    """A change of a value, pooled or of a stratum, changes the id."""
    one = Calibration(VALUES, {Stratum.SMALL_LOW_QUALITY: VALUES})
    pooled, stratum = (VALUES + 1e-9 * (changed == part) for part in ("pooled", "stratum"))
    other = Calibration(pooled, {Stratum.SMALL_LOW_QUALITY: stratum})
    assert make_calibration_id(one) != make_calibration_id(other)


def test_the_starter_keeps_its_calibration_id(starter: Bundle, root: Path) -> None:
    """Without strata the id is the digest of the values alone."""
    loaded = load_calibration(root / "model_repository" / "calibration.npz")
    assert make_calibration_id(loaded) == starter.manifest.calibration_id


@given(st.lists(st.tuples(st.sampled_from(Stratum), st.integers(0, 90)), min_size=1, max_size=300))
def test_a_split_keeps_every_face_of_a_sufficient_stratum(faces: list[tuple[Stratum, int]]) -> None:
    """Copies count as one photograph; a stratum of too few is stated, not used."""
    strata, photos = (np.array([str(face[part]) for face in faces]) for part in (0, 1))
    values = np.arange(len(faces), dtype=np.float64)[::-1]
    split, photographs = split_by_stratum(values, photos, strata)
    assert photographs.keys() == {stratum for stratum, _ in faces}
    for stratum, count in photographs.items():
        assert count == len({photo for each, photo in faces if each is stratum})
        assert (stratum in split) == (count >= LEAST_STRATUM_PHOTOGRAPHS)
    for stratum, kept in split.items():
        np.testing.assert_array_equal(kept, np.sort(values[strata == stratum.value]))
