"""`calibration.npz`: written, read, and split by stratum."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scorer.bundle.bundle import MANIFEST, Bundle, read_bundle
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
from tests.scorer.bundle.malformed_bundles import record

VALUES = np.arange(80, dtype=np.float64)


@pytest.fixture
def copy(starter: Bundle, tmp_path: Path) -> Path:
    """A copy of the starter bundle that a test may change."""
    return shutil.copytree(starter.folder, tmp_path / "bundle")


def add_stratum(folder: Path, starter: Bundle, values: np.ndarray = VALUES, photographs: int = 75) -> None:
    """Write the starter's calibration with the stratum `small_low_quality` of these values beside it."""
    calibration = Calibration(starter.model.calibration.pooled, {Stratum.SMALL_LOW_QUALITY: values})
    write_calibration(folder / "calibration.npz", calibration)
    fields = make_manifest_fields(calibration, 78, {Stratum.SMALL_LOW_QUALITY: 75})
    fields["calibration_strata"] = {"small_low_quality": {"faces": 80, "photographs": photographs}}
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps(manifest | fields))
    record(folder, "calibration.npz")


def test_a_bundle_without_strata_has_one_calibration(copy: Path, starter: Bundle) -> None:
    """A bundle of an earlier release does not state strata: all faces are scored against all photographs."""
    manifest = json.loads((copy / MANIFEST).read_text())
    manifest.pop("calibration_strata", None)
    (copy / MANIFEST).write_text(json.dumps(manifest))
    bundle = read_bundle(copy)
    np.testing.assert_array_equal(bundle.model.calibration.pooled, starter.model.calibration.pooled)
    assert bundle.model.calibration.strata == {}
    assert bundle.manifest.calibration == (manifest["calibration_size"], manifest["calibration_photographs"], None)


def test_strata_are_read_as_they_were_written(copy: Path, starter: Bundle) -> None:
    """The pooled values are unchanged, and the smallest part limits the rates that the bundle supports."""
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
    """Any change of a value, pooled or of a stratum, changes the id; a calibration without strata keeps its old id."""
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
    """Copies of one photograph count as one photograph; a stratum of too few photographs is stated, not used."""
    strata, photos = (np.array([str(face[part]) for face in faces]) for part in (0, 1))
    values = np.arange(len(faces), dtype=np.float64)[::-1]
    split, photographs = split_by_stratum(values, photos, strata)
    assert photographs.keys() == {stratum for stratum, _ in faces}
    for stratum, count in photographs.items():
        assert count == len({photo for each, photo in faces if each is stratum})
        assert (stratum in split) == (count >= LEAST_STRATUM_PHOTOGRAPHS)
    for stratum, kept in split.items():
        np.testing.assert_array_equal(kept, np.sort(values[strata == stratum.value]))
