"""A run's photographs refit a bundle, and its promise is kept."""

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from scipy.stats import betabinom

from scorer.archive.calibration.faces import read_faces
from scorer.archive.calibration.labels import LABELS
from scorer.archive.calibration.refit import NewCalibration, calibrate_bundle, split_faces
from scorer.bundle.bundle import Bundle, read_mixture
from scorer.decide import flagged_rank, p_values
from scorer.errors import RunBroken, UsageError
from scorer.mixture import log_likelihood, stack_mixture
from scorer.strata import Stratum
from tests.scorer.archive.calibration.synthetic_run import DrawnFaces, draw_faces, write_scored_run, write_small_bundle

RATE = 0.05
NO_SHRINKING = (Phase.explicit, Phase.reuse, Phase.generate)  # a seed cannot be made simpler


def take(faces: DrawnFaces, rows: np.ndarray) -> DrawnFaces:
    """Return some of the faces."""
    chosen = {name: [getattr(faces, name)[row] for row in rows] for name in ("photographs", "sources")}
    return replace(faces, features=faces.features[rows], **chosen)


def draw_apart(seed: int, photographs: int) -> DrawnFaces:
    """Return drawn faces that each have a photograph of their own."""
    drawn = draw_faces(np.random.default_rng(seed), photographs, 12)
    return replace(drawn, photographs=[f"{row}" for row in range(len(drawn.features))])


def write_labels(labels: dict[str, str]) -> pa.Table:
    """Return labels of whole images by result id."""
    rows = [{"result_id": name, "face": None, "label": label} for name, label in labels.items()]
    return pa.Table.from_pylist(rows, LABELS)


def refit(bundle: Bundle, faces: DrawnFaces, folder: Path, **options: object) -> NewCalibration:
    """Return the calibration of a run with these faces."""
    return calibrate_bundle(bundle, write_scored_run(folder, bundle, faces), **options)


@settings(max_examples=20, phases=NO_SHRINKING)
@given(st.integers(0, 2**32 - 1), st.integers(160, 320), st.sampled_from(["refit", "calibration only"]))
def test_new_photographs_are_flagged_as_promised(bundle: Bundle, seed: int, photographs: int, how: str) -> None:
    """Before, nearly all faces of other traffic are flagged; then as many as the law allows."""
    rng, only = np.random.default_rng(seed), how == "calibration only"
    drawn, fresh = draw_faces(rng, photographs, 20), draw_faces(rng, 2000, 20)
    with tempfile.TemporaryDirectory() as folder:
        found = refit(bundle, drawn, Path(folder) / "run", calibration_only=only)
    fresh_nats = log_likelihood(fresh.features, bundle.model.mixture)
    assert (p_values(fresh_nats, bundle.model.calibration.pooled) <= RATE).mean() > 0.9
    if found.mixture:
        fresh_nats = log_likelihood(fresh.features, stack_mixture(found.mixture))
    values = found.calibration.pooled
    alarms = int((p_values(fresh_nats, values) <= RATE).sum())
    rank = flagged_rank(len(values), RATE)
    law = betabinom(len(fresh_nats), rank, len(values) + 1 - rank)
    assert law.ppf(1e-6) <= alarms <= law.ppf(1 - 1e-6)
    assert (found.mixture is None) is only
    assert len(values) == (len(drawn.features) if only else pytest.approx(len(drawn.features) / 2, rel=0.35))


@pytest.mark.slow
@settings(max_examples=10, phases=NO_SHRINKING)
@given(st.integers(0, 2**32 - 1), st.integers(8, 30))
def test_no_source_and_no_photograph_does_both(bundle: Bundle, seed: int, sources: int) -> None:
    """The halves share no group, and no photograph that has copies in two sources."""
    drawn = draw_faces(np.random.default_rng(seed), 400, sources)
    for by in ("source", "photograph", "camera"):
        if by == "camera":
            drawn.more["camera"] = [f"camera {int(name[6:]) % 9}" for name in drawn.photographs]
        with tempfile.TemporaryDirectory() as folder:
            faces = read_faces(write_scored_run(Path(folder), bundle, drawn), by)
        fits = split_faces(faces, by)
        for column in ("group", "photograph"):
            assert not set(faces.names(column)[fits]) & set(faces.names(column)[~fits])


def test_copies_count_once(bundle: Bundle, tmp_path: Path) -> None:
    """Neither a file again nor its picture with other metadata changes the calibration."""
    drawn = draw_faces(np.random.default_rng(3), 300, 12)
    once = refit(bundle, drawn, tmp_path / "once")
    rows = np.concatenate([np.arange(len(drawn.features)), np.arange(40), np.arange(60)])
    twice = take(drawn, rows)
    twice.photographs = [*twice.photographs[:-60], *(f"{name} without EXIF" for name in twice.photographs[-60:])]
    twice.more["face_x"] = [float(row) for row in rows]
    again = refit(bundle, twice, tmp_path / "twice")
    assert again.manifest_fields == once.manifest_fields
    assert again.facts["counted once"] == "100 copies of faces left out"


def test_only_labels_leave_faces_out(bundle: Bundle, tmp_path: Path) -> None:
    """Flagged faces stay; faces labelled generated or unsure go."""
    drawn = draw_apart(4, 300)
    whole = refit(bundle, drawn, tmp_path / "whole", calibration_only=True)
    nats = np.sort(log_likelihood(drawn.features, bundle.model.mixture))
    np.testing.assert_array_equal(whole.calibration.pooled, nats)
    assert (p_values(nats, bundle.model.calibration.pooled) <= RATE).mean() > 0.9
    out = {f"result-{row:05d}": "generated" if row % 2 else "unsure" for row in range(50)}
    kept = {f"result-{row:05d}": "photograph" for row in range(50, 60)}
    labels = write_labels(out | kept | {"result-of-another-run": "generated"})
    less = calibrate_bundle(bundle, tmp_path / "whole", calibration_only=True, labels=labels)
    expected = np.sort(log_likelihood(drawn.features[50:], bundle.model.mixture))
    np.testing.assert_array_equal(less.calibration.pooled, expected)
    assert less.facts["reviewers"] == "50 faces labelled generated or unsure left out"
    assert "1 label without a result in the run" in less.notes


def test_a_stratum_with_enough_photographs_has_its_own(bundle: Bundle, tmp_path: Path) -> None:
    """A stratum with 72 photographs is calibrated by itself; smaller ones are named."""
    drawn = draw_apart(5, 400)
    small = [Stratum.SMALL_LOW_QUALITY] * 71 + [Stratum.LOW_QUALITY] * 72
    drawn.strata = small + [Stratum.HIGH_QUALITY] * (len(drawn.features) - len(small))
    found = refit(bundle, drawn, tmp_path / "run", calibration_only=True)
    assert set(found.calibration.strata) == {Stratum.HIGH_QUALITY, Stratum.LOW_QUALITY}
    assert len(found.calibration.strata[Stratum.LOW_QUALITY]) == 72
    assert found.thresholds["low_quality"]["photographs"] == 72
    assert any("small_low_quality (71)" in note for note in found.notes)
    pooled = calibrate_bundle(bundle, tmp_path / "run", calibration_only=True, strata=False)
    assert not pooled.calibration.strata


def test_tracks_calibrate_their_strata_only(bundle: Bundle, tmp_path: Path) -> None:
    """72 clips have a stratum, and neither the fit nor the whole contains them."""
    drawn = draw_apart(5, 400)
    others = len(drawn.features) - 72
    drawn.strata = [Stratum.VIDEO] * 72 + [Stratum.HIGH_QUALITY] * others
    found = refit(bundle, drawn, tmp_path / "run", calibration_only=True)
    assert {name: len(values) for name, values in found.calibration.strata.items()} == {
        Stratum.VIDEO: 72,
        Stratum.HIGH_QUALITY: others,
    }
    assert len(found.calibration.pooled) == found.thresholds["all"]["photographs"] == others
    assert found.manifest_fields["calibration_photographs"] == others
    fitted = calibrate_bundle(bundle, tmp_path / "run")
    assert Stratum.VIDEO not in fitted.calibration.strata
    assert any("72 tracks of clips left out" in note for note in fitted.notes)


def test_a_worse_mixture_is_not_taken(bundle: Bundle, tmp_path: Path) -> None:
    """A mixture that is worse on held-out faces is not taken, and all faces calibrate."""
    drawn = draw_faces(np.random.default_rng(12), 160, 12)
    drawn.features = np.random.default_rng(12).normal(size=drawn.features.shape).astype(np.float32)
    found = refit(bundle, drawn, tmp_path / "run")
    assert found.mixture is None
    assert len(found.calibration.pooled) == len(drawn.features)
    assert "the mixture before is kept: held-out faces are" in found.notes[0]
    assert found.facts["mixture"] == "that of small"


@pytest.mark.parametrize(("components", "kind"), [(2, "diagonal"), (2, "tied"), (1, "diagonal")])
def test_the_kind_of_mixture_stays(starter: Bundle, tmp_path: Path, components: int, kind: str) -> None:
    """The new mixture has as many components and the kind of covariances of the one before."""
    bundle = write_small_bundle(starter, tmp_path / "bundle", components, diagonal=kind == "diagonal")
    found = refit(bundle, draw_faces(np.random.default_rng(6), 400, 12), tmp_path / "run")
    assert found.mixture
    assert found.mixture.precisions_cholesky.shape == read_mixture(bundle).precisions_cholesky.shape
    if kind == "tied":
        factors = found.mixture.precisions_cholesky
        assert (factors[0] == factors[1]).all()


def test_minimums_are_stated(bundle: Bundle, tmp_path: Path) -> None:
    """Too few photographs is an error with their number and those for 5 % and 1 %."""
    drawn = draw_faces(np.random.default_rng(7), 71, 12)
    numbers = r"71 photographs: at least 72 are needed, .* of 5 %, and 368 for 1 %"
    with pytest.raises(UsageError, match=rf"the calibration has {numbers}"):
        refit(bundle, drawn, tmp_path / "few", calibration_only=True)
    with pytest.raises(UsageError, match=r"photographs after the split by source: at least 72 are needed"):
        refit(bundle, draw_faces(np.random.default_rng(7), 140, 12), tmp_path / "half")
    uneven = draw_faces(np.random.default_rng(7), 400, 12)
    uneven.sources = ["one"] * len(uneven.sources)
    with pytest.raises(UsageError, match=r"all faces are of one source: .* --by photograph"):
        refit(bundle, uneven, tmp_path / "one", by="source")
    found = calibrate_bundle(bundle, tmp_path / "one")
    assert "the run has 1 sources, fewer than 8" in found.notes[0]


def test_runs_that_do_not_fit_are_refused(bundle: Bundle, starter: Bundle, tmp_path: Path) -> None:
    """Another bundle's run, absent features, an unfinished run and unknown columns are refused."""
    drawn = draw_faces(np.random.default_rng(8), 200, 12)
    run = write_scored_run(tmp_path / "run", bundle, drawn)
    with pytest.raises(UsageError, match=r"was scored with small .* is starter-.*: name the bundle of the run"):
        calibrate_bundle(starter, run)
    for by in ("colour", "resampled"):
        with pytest.raises(UsageError, match=f"--by {by}: name source, photograph, quality"):
            calibrate_bundle(bundle, run, by=by)
    with pytest.raises(UsageError, match="none of the 1 labels names a result"):
        calibrate_bundle(bundle, run, labels=write_labels({"other": "unsure"}))
    plain = write_scored_run(tmp_path / "plain", bundle, drawn, features=False)
    with pytest.raises(UsageError, match=r"scanned without --keep-features.*--calibration-only"):
        calibrate_bundle(bundle, plain)
    assert calibrate_bundle(bundle, plain, calibration_only=True).mixture is None
    (run / "features" / "part-00001.parquet").unlink()
    with pytest.raises(RunBroken, match="features that were deleted need a new scan"):
        calibrate_bundle(bundle, run)
    (run / "_stats" / "00001.json").unlink()
    with pytest.raises(UsageError, match="1 of 2 shards are committed: finish the scan first"):
        calibrate_bundle(bundle, run)
