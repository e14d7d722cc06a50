"""The bundle that a calibration writes."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from scorer.archive.calibration.new_bundle import write_calibrated_bundle
from scorer.archive.calibration.refit import calibrate_bundle
from scorer.bundle.bundle import SIGNATURE, Bundle, read_bundle
from scorer.errors import BundleMismatch, UsageError
from scorer.mixture import log_likelihood
from tests.scorer.archive.calibration.synthetic_run import draw_faces, write_scored_run, write_small_bundle


@pytest.fixture
def bundle(starter: Bundle, tmp_path: Path) -> Bundle:
    """A bundle with a signature."""
    bundle = write_small_bundle(starter, tmp_path / "small")
    (bundle.folder / SIGNATURE).write_bytes(b"0" * 64)
    return bundle


def test_the_new_bundle_states_what_was_done(bundle: Bundle, tmp_path: Path) -> None:
    """Id, digest, calibration and card are new, the evaluation is gone, other files are unchanged."""
    run = write_scored_run(tmp_path / "run", bundle, draw_faces(np.random.default_rng(1), 300, 12))
    found = calibrate_bundle(bundle, run)
    new = write_calibrated_bundle(bundle, found, tmp_path / "new")
    assert new.model.digest != bundle.model.digest
    assert new.manifest.bundle_id == f"small+run-{new.manifest.calibration_id}"
    assert new.manifest.calibration_id == found.manifest_fields["calibration_id"] != bundle.manifest.calibration_id
    assert new.manifest.calibration_size == len(found.calibration.pooled)
    assert new.manifest.evaluation is None
    assert bundle.model.digest in new.manifest.provenance.data["before"]
    np.testing.assert_array_equal(new.model.calibration.pooled, found.calibration.pooled)
    golden = log_likelihood(new.golden.features, new.model.mixture)
    np.testing.assert_array_equal(golden, new.golden.log_likelihoods)
    np.testing.assert_array_equal(new.golden.features, bundle.golden.features)
    assert (golden != bundle.golden.log_likelihoods).all()
    changed = {name for name, record in new.manifest.files.items() if record != bundle.manifest.files[name]}
    assert changed == {"mixture.npz", "calibration.npz", "golden.npz", "MODEL_CARD.md"}
    assert not (new.folder / SIGNATURE).exists()
    card = (new.folder / "MODEL_CARD.md").read_text()
    for words in (
        f"# Model card: {new.manifest.bundle_id}",
        found.facts["mixture"],
        found.facts["calibration"],
        "| 5 % |",
    ):
        assert words in card
    assert not list(tmp_path.glob(".*")), "no partial folder is left"


def test_calibrated_again(bundle: Bundle, tmp_path: Path) -> None:
    """The calibration alone keeps mixture and golden faces; a second one replaces card section and id."""
    drawn = draw_faces(np.random.default_rng(2), 300, 12)
    once = write_calibrated_bundle(
        bundle,
        calibrate_bundle(bundle, write_scored_run(tmp_path / "a", bundle, drawn), calibration_only=True),
        tmp_path / "once",
    )
    for name in ("mixture.npz", "golden.npz"):
        assert once.manifest.files[name] == bundle.manifest.files[name]
    run = write_scored_run(tmp_path / "b", once, draw_faces(np.random.default_rng(3), 300, 12))
    twice = write_calibrated_bundle(once, calibrate_bundle(once, run), tmp_path / "twice")
    assert twice.manifest.bundle_id == f"small+run-{twice.manifest.calibration_id}"
    card = (twice.folder / "MODEL_CARD.md").read_text()
    assert card.count("## Calibrated on a scan") == card.count("# Model card: ") == 1
    assert once.manifest.bundle_id in card
    before = (bundle.folder / "MODEL_CARD.md").read_text()
    assert card.endswith(before.partition("\n\n")[2].partition("\n\n")[2]), "the rest of the card stays"


def test_nothing_is_overwritten(bundle: Bundle, tmp_path: Path) -> None:
    """A full folder is refused, and a file that changed since leaves no new bundle."""
    run = write_scored_run(tmp_path / "run", bundle, draw_faces(np.random.default_rng(4), 200, 12))
    found = calibrate_bundle(bundle, run, calibration_only=True)
    full = tmp_path / "full"
    full.mkdir()
    (full / "photo.jpg").touch()
    with pytest.raises(UsageError, match="full is not an empty folder"):
        write_calibrated_bundle(bundle, found, full)
    empty = tmp_path / "empty"
    empty.mkdir()
    assert read_bundle(write_calibrated_bundle(bundle, found, empty).folder)
    card = bundle.folder / "MODEL_CARD.md"
    card.write_text(card.read_text() + "more")
    with pytest.raises(BundleMismatch, match=r"MODEL_CARD.md has changed"):
        write_calibrated_bundle(bundle, found, tmp_path / "broken")
    assert not (tmp_path / "broken").exists()
    assert not list(tmp_path.glob(".*"))


def test_a_bundle_without_a_card_gets_one(bundle: Bundle, tmp_path: Path) -> None:
    """The card of a bundle that has none is the section alone."""
    folder = Path(shutil.copytree(bundle.folder, tmp_path / "plain"))
    (folder / "MODEL_CARD.md").unlink()
    manifest = json.loads((folder / "bundle.json").read_text())
    del manifest["files"]["MODEL_CARD.md"]
    (folder / "bundle.json").write_text(json.dumps(manifest))
    plain = read_bundle(folder)
    run = write_scored_run(tmp_path / "run", plain, draw_faces(np.random.default_rng(5), 200, 12))
    new = write_calibrated_bundle(plain, calibrate_bundle(plain, run, calibration_only=True), tmp_path / "new")
    assert (new.folder / "MODEL_CARD.md").read_text().startswith(f"# Model card: {new.manifest.bundle_id}\n")
