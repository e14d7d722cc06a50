"""A bundle is trusted only when every byte, the schema and the live engine agree."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from scorer.bundle.bundle import MANIFEST, Bundle, read_bundle
from scorer.decide import p_values
from scorer.engines.openvino import LocalEmbedder, OpenVinoExtractor
from scorer.engines.verify import verify_engine
from scorer.errors import BundleMismatch
from scorer.local_scorer import LocalScorer
from scorer.settings import Settings
from tests.conftest import ROOT
from tests.scorer.bundle.malformed_bundles import list_harms, read_manifest, record, write_manifest

HARMS = list_harms(ROOT / "model_repository")


def test_live_engine_gives_the_golden_answers(starter: Bundle, embedder: LocalEmbedder) -> None:
    """The shipped bundle verifies here, within its own tolerance."""
    assert verify_engine(starter, embedder) <= starter.manifest.golden_tolerance_nats


@pytest.mark.parametrize("noise", [-2.3e-13, 2.3e-13])
def test_a_held_out_face_is_as_likely_as_itself(copy: Path, starter: Bundle, noise: float) -> None:
    """A held-out face has its p-value also where training's CPU added in another order."""
    with np.load(copy / "calibration.npz") as arrays:
        np.savez(copy / "calibration.npz", log_likelihoods=arrays["log_likelihoods"] + noise)
    record(copy, "calibration.npz")
    calibration = read_bundle(copy).model.calibration.pooled
    expected = p_values(starter.model.calibration.pooled, starter.model.calibration.pooled)
    np.testing.assert_array_equal(p_values(starter.model.calibration.pooled, calibration), expected)


@pytest.mark.parametrize("instructions", ["AVX2", "AVX512_CORE"])
def test_older_processors_give_the_golden_answers(root: Path, instructions: str) -> None:
    """The engine scores the same with older instruction sets."""
    run = subprocess.run(
        [Path(sys.executable).parent / "unlensed", "bundle", "verify", root / "model_repository"],
        env=os.environ | {"ONEDNN_MAX_CPU_ISA": instructions},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr


def test_golden_tolerance_is_tighter_than_a_decision(starter: Bundle) -> None:
    """The tolerance is small against the spread of photographs."""
    spread = np.subtract(*np.percentile(starter.model.calibration.pooled, [75, 25]))
    assert starter.manifest.golden_tolerance_nats < 0.1 * spread


def test_every_file_of_the_bundle_is_pinned(copy: Path, starter: Bundle) -> None:
    """A single changed bit in any listed file is noticed, and the file is named."""
    for name in starter.manifest.files:
        original = (copy / name).read_bytes()
        (copy / name).write_bytes(original[:-1] + bytes([original[-1] ^ 1]))
        with pytest.raises(BundleMismatch, match=f"{name} has changed"):
            read_bundle(copy)
        (copy / name).write_bytes(original)
    assert read_bundle(copy).model.digest == starter.model.digest


def edit(folder: Path, **fields: object) -> None:
    """Replace top-level fields of the manifest."""
    write_manifest(folder, read_manifest(folder) | fields)


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (HARMS["mixture.npz is gone"], r"mixture\.npz is missing"),
        (lambda folder: (folder / "notes.txt").touch(), r"notes\.txt is not in the manifest"),
        (HARMS["a pickle"], r"weights\.pt has a format that can contain a pickle"),
        (HARMS["mixture.npz: weights is of objects"], "cannot be used: array weights has the type object"),
        (HARMS["mixture.npz is a pickle"], r"mixture\.npz cannot be used: it does not contain plain arrays"),
        (HARMS["the calibration is out of order"], "not in ascending order"),
        (HARMS["schema_version is 1"], "schema version 1, but this release reads 2: export it again"),
        (lambda folder: edit(folder, surprise=1), "does not fit the manifest's schema"),
        (lambda folder: edit(folder, calibration_photographs=1742), "1741 calibration faces cannot be of 1742"),
        (lambda folder: edit(folder, files={"../secret": {}}), "does not fit"),
        (lambda folder: edit(folder, preprocess={"size": 224, "angle": 3}), "does not fit"),
        (lambda folder: (folder / MANIFEST).write_text("{"), "is not a manifest"),
        (lambda folder: (folder / MANIFEST).unlink(), "is not a bundle"),
    ],
)
def test_damaged_bundle_is_refused_with_a_sentence(copy: Path, damage: Callable[[Path], object], sentence: str) -> None:
    """A missing, unlisted, forged or newer part is refused, and the message names it."""
    damage(copy)
    with pytest.raises(BundleMismatch, match=sentence):
        read_bundle(copy)


def test_a_readme_is_no_part_of_a_bundle(copy: Path, starter: Bundle) -> None:
    """A `README.md` beside the manifest may have any content: the digest is the same."""
    (copy / "README.md").write_text("What this bundle is.\n", encoding="utf-8")
    assert read_bundle(copy).model.digest == starter.model.digest


def test_a_bundle_of_an_earlier_release_is_read(copy: Path, starter: Bundle) -> None:
    """Without evaluation and photographs its faces count, and nothing was measured."""
    manifest = read_manifest(copy)
    del manifest["evaluation"], manifest["calibration_photographs"]
    write_manifest(copy, manifest)
    old = read_bundle(copy).manifest
    assert (old.evaluation, old.calibration.photographs) == (None, starter.manifest.calibration_size)
    assert starter.manifest.calibration.photographs < old.calibration.photographs


@pytest.mark.parametrize("part", ["extractor", "detector"])
def test_a_network_that_is_none_is_refused(copy: Path, part: str) -> None:
    """A forged file in place of a network is named, even when all digests fit."""
    manifest = read_bundle(copy).manifest
    name = manifest.extractor if part == "extractor" else manifest.detector.file
    (copy / name).write_bytes(b"<net/>")
    record(copy, name)
    with pytest.raises(BundleMismatch, match=Path(name).name):
        LocalScorer(Settings(bundle=copy, threads=1))


def test_a_network_of_another_size_is_refused(copy: Path) -> None:
    """A manifest that states another number of features than the network gives is refused."""
    manifest = read_bundle(copy).manifest
    with pytest.raises(BundleMismatch, match=f"gives {manifest.feature_size} features, the manifest states 512"):
        OpenVinoExtractor(copy / manifest.extractor, feature_size=512, threads=1)


def test_an_engine_with_other_answers_is_refused(copy: Path, embedder: LocalEmbedder) -> None:
    """An engine without the golden answers stops the start, even when all digests fit."""
    with np.load(copy / "golden.npz") as archive:
        arrays = dict(archive)
    tolerance = read_bundle(copy).manifest.golden_tolerance_nats
    arrays["log_likelihoods"] = arrays["log_likelihoods"] + 3 * tolerance
    np.savez(copy / "golden.npz", **arrays)
    record(copy, "golden.npz")
    with pytest.raises(BundleMismatch, match="nats away from the golden answers"):
        verify_engine(read_bundle(copy), embedder)


def test_golden_pictures_are_whole(starter: Bundle) -> None:
    """Each golden face has its own picture, and there are at least two."""
    golden = starter.golden
    assert len(golden.images) == len(golden.boxes) == len(golden.features) >= 2
