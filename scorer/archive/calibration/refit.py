"""Fit a bundle's mixture and calibration, or its calibration alone, to the photographs of a finished run.

Half of the groups (sources, where there are enough) fit the mixture, and the others calibrate it, so that no photograph
and no source does both. The mixture is replaced only if that makes the others more likely: a mixture of few photographs
would know less than the one before. Otherwise all faces calibrate.

Faces are used whatever their decision was: leaving out flagged faces would make the promised rates false. Only faces
that a reviewer labelled otherwise than `photograph` are left out.

Shape suffixes: N faces, D features, K components.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from scorer.archive.calibration.faces import PHOTOGRAPH, RunFaces, read_faces, read_features
from scorer.archive.calibration.labels import Label
from scorer.bundle.bundle import Bundle
from scorer.bundle.calibration import make_manifest_fields, split_by_stratum
from scorer.bundle.manifest import LEAST_STRATUM_PHOTOGRAPHS, MIXTURE
from scorer.decide import Calibration, photographs_needed
from scorer.errors import UsageError
from scorer.fitting.calibrate import describe_calibration, score_held_out
from scorer.fitting.fit import Fitter, describe_shape, make_mixture, score_blocks, split_sources
from scorer.fitting.shapes import Covariance, MixtureRule, MixtureShape
from scorer.mixture import GaussianMixture, stack_mixture
from scorer.observe.printable import count_noun

MIN_SOURCES = 8  # with fewer, photographs are split and not sources
MAX_FACES = 100_000  # more are sampled by photograph: 300 MB of 768 features
FOLDS = 3
SHRINKAGES = (0.0, 0.05, 0.1, 0.2, 0.3)
LEAST_RATE, DEFAULT_RATE = 0.05, 0.01  # the default review rate and flag rate of a policy


@dataclass(frozen=True, slots=True, eq=False)
class NewCalibration:
    """What replaces a bundle's mixture and calibration.

    Attributes:
        mixture: None where it is unchanged.
        calibration: of all held-out faces, and of the strata that have enough photographs.
        manifest_fields: that state the calibration.
        thresholds: as in training's `calibration.json`, of "all" and of each of these strata.
        facts: name and value of what was done, for the model card and a terminal.
        notes: sentences on limits.
    """

    mixture: GaussianMixture | None
    calibration: Calibration
    manifest_fields: dict[str, object]
    thresholds: dict[str, dict[str, Any]]
    facts: dict[str, str]
    notes: tuple[str, ...]


def calibrate_bundle(  # noqa: PLR0913 - the options of the command line
    bundle: Bundle,
    folder: Path,
    *,
    by: str | None = None,
    labels: pa.Table | None = None,
    calibration_only: bool = False,
    strata: bool = True,
    report: Callable[[str], object] = lambda _: None,
) -> NewCalibration:
    """Return the mixture and calibration that fit the photographs of a run.

    Args:
        bundle: the bundle that scored the run.
        folder: the run's folder.
        by: the groups that are split, see `read_faces`; None means sources if there are at least `MIN_SOURCES`, else
            photographs.
        labels: of reviewers; faces with another label than `photograph` are left out.
        calibration_only: keep the mixture; every face then calibrates it, and no features are needed.
        strata: calibrate each stratum with enough photographs by itself, too.
        report: called with the name of each step.

    Raises:
        UsageError: another bundle scored the run, it has too few photographs, or `read_faces` refuses it.
        RunBroken: the run's files contradict its marks.
    """
    facts: dict[str, str] = {}
    notes: list[str] = []
    report("reading the run")
    faces, by = _read_photographs(bundle, folder, by, labels, facts, notes)
    mixture, held_out, values = None, faces, faces.numbers("log_likelihood")
    facts["mixture"] = f"that of {bundle.manifest.bundle_id}"
    tracks = faces.is_track
    if calibration_only:
        _require_photographs(faces.select(~tracks), "the calibration")
    else:
        if tracks.any():
            notes.append(
                f"{count_noun(int(tracks.sum()), 'track')} of clips left out: a scan keeps no features of clips; "
                "--calibration-only calibrates them"
            )
            faces = faces.select(~tracks)
            held_out, values = faces, faces.numbers("log_likelihood")
        features = read_features(folder, faces, bundle.manifest.feature_size)
        fits = split_faces(faces, by)
        report("fitting the mixture")
        fitted, shape = _fit(features[fits], faces.select(fits).names("group"), read_mixture(bundle))
        found = score_held_out(fitted, features[~fits])
        gain = float((found - values[~fits]).mean())
        if gain > 0:
            mixture, held_out, values = fitted, faces.select(~fits), found
            facts["mixture"] = f"{shape}, fitted on {faces.select(fits).describe()}"
            facts["groups"] = f"{by}: none of them fits the mixture and calibrates it"
            facts["held-out faces"] = f"{gain:.1f} nats more likely than under the mixture before"
        else:
            notes.append(
                f"the mixture before is kept: held-out faces are {-gain:.1f} nats less likely under one that was "
                f"fitted on {faces.select(fits).describe()}; more photographs may change that"
            )
    facts["calibration"] = held_out.describe()
    return _calibrate(mixture, values, held_out, facts, notes, strata=strata)


def _read_photographs(  # noqa: PLR0913, PLR0917
    bundle: Bundle, folder: Path, by: str | None, labels: pa.Table | None, facts: dict[str, str], notes: list[str]
) -> tuple[RunFaces, str]:
    """Return the faces to use and the name of their groups; add what was done to `facts` and `notes`."""
    faces = read_faces(folder, by or "source", labels)
    if faces.run.bundle_digest != bundle.model.digest:
        message = (
            f"{folder} was scored with {faces.run.bundle_id} (digest {faces.run.bundle_digest}), and "
            f"{bundle.folder} is {bundle.manifest.bundle_id} (digest {bundle.model.digest}): name the bundle of the run"
        )
        raise UsageError(message)
    if by is None and (sources := faces.count("source")) < MIN_SOURCES:
        notes.append(
            f"the run has {sources} sources, fewer than {MIN_SOURCES}: photographs are split and not sources, so a new "
            "source can cause more false alarms"
        )
        by = PHOTOGRAPH
        faces = read_faces(folder, by, labels)
    plan = faces.run.plan_digest[:12] or "unknown"
    facts["scan"] = f"of {faces.run.created_at:%Y-%m-%d}, plan {plan}, {faces.describe()}"
    if faces.copies:
        facts["counted once"] = f"{count_noun(faces.copies, 'copy', 'copies')} of faces left out"
    if labels is not None:
        left_out = faces.labelled(Label.GENERATED, Label.UNSURE)
        facts["reviewers"] = f"{count_noun(int(left_out.sum()), 'face')} labelled generated or unsure left out"
        faces = faces.select(~left_out)
    if faces.unknown_labels:
        notes.append(f"{count_noun(faces.unknown_labels, 'label')} without a result in the run")
    return _sample(faces, notes), by or "source"


def _calibrate(  # noqa: PLR0913
    mixture: GaussianMixture | None,
    values_N: NDArray[np.float64],
    held_out: RunFaces,
    facts: dict[str, str],
    notes: list[str],
    *,
    strata: bool,
) -> NewCalibration:
    photographs, names, still = held_out.names("photograph"), held_out.names("stratum"), ~held_out.is_track
    parts, sizes = split_by_stratum(values_N, photographs, names) if strata else ({}, {})
    calibration = Calibration(np.sort(values_N[still]), parts)  # tracks count in their strata only
    thresholds = {"all": describe_calibration(values_N[still], photographs[still])}
    for stratum in parts:
        rows = names == stratum.value
        thresholds[stratum.value] = describe_calibration(values_N[rows], photographs[rows])
    if pooled := [f"{each.value} ({count})" for each, count in sizes.items() if each not in parts]:
        notes.append(
            f"strata with fewer than {LEAST_STRATUM_PHOTOGRAPHS} photographs, whose faces are compared with all: "
            f"{', '.join(pooled)}"
        )
    fields = make_manifest_fields(calibration, len(np.unique(photographs[still])), sizes)
    return NewCalibration(mixture, calibration, fields, thresholds, facts, tuple(notes))


def read_mixture(bundle: Bundle) -> GaussianMixture:
    """Return the mixture of a bundle with its parameters as stored.

    Raises:
        BundleMismatch: the file has changed since the bundle was read.
    """
    with np.load(io.BytesIO(bundle.read(bundle.folder / MIXTURE)), allow_pickle=False) as arrays:
        return GaussianMixture(arrays["weights"], arrays["means"], arrays["precisions_cholesky"])


def _sample(faces: RunFaces, notes: list[str]) -> RunFaces:
    """Return all faces, or those of photographs drawn by a fixed seed until there are `MAX_FACES`."""
    if len(faces) <= MAX_FACES:
        return faces
    photographs, _ = faces.codes("photograph")
    order = np.random.default_rng(2024).permutation(int(photographs.max()) + 1)
    drawn = np.cumsum(np.bincount(photographs)[order]) <= MAX_FACES
    notes.append(f"{MAX_FACES:,} of {len(faces):,} faces were drawn by photograph; more change little")
    return faces.select(np.isin(photographs, order[drawn]))


def split_faces(faces: RunFaces, by: str) -> NDArray[np.bool_]:
    """Return which faces [N] fit the mixture; the others calibrate it.

    Raises:
        UsageError: a half has too few photographs.
    """
    groups = faces.names("group")
    if len(np.unique(groups)) < 2:  # noqa: PLR2004 - one to fit, one to calibrate
        message = f"all faces are of one {by}: split by another column, such as --by {PHOTOGRAPH}"
        raise UsageError(message)
    fits = np.isin(groups, split_sources(groups, 2)[0])
    for half, use in ((fits, "the fit of the mixture"), (~fits, "the calibration")):
        _require_photographs(
            faces.select(half), use, f" after the split by {by}", ", or keep the mixture with --calibration-only"
        )
    return fits


def _require_photographs(faces: RunFaces, use: str, which: str = "", otherwise: str = "") -> None:
    found, least, default = faces.count("photograph"), photographs_needed(LEAST_RATE), photographs_needed(DEFAULT_RATE)
    if found < least:
        message = (
            f"{use} has {found} photographs{which}: at least {least} are needed, which support a false-alarm rate of "
            f"{100 * LEAST_RATE:g} %, and {default} for {100 * DEFAULT_RATE:g} %; scan more photographs{otherwise}"
        )
        raise UsageError(message)


def _fit(
    features_ND: NDArray[np.float32], groups_N: NDArray[np.str_], before: GaussianMixture
) -> tuple[GaussianMixture, str]:
    """Return a mixture of the kind and the number of components of `before`, and its shape in words.

    Likelihood of groups left out of the fit chooses the shrinkage of the correlations.

    Raises:
        UsageError: the faces are too few for that kind of mixture.
    """
    factors, fitter = before.precisions_cholesky, Fitter(MixtureRule())
    components = len(before.weights)
    if factors.ndim == 2:  # noqa: PLR2004 - diagonal covariances
        shapes = [MixtureShape("diag", components)]
    else:
        kind: Covariance = "tied" if components > 1 and (factors == factors[0]).all() else "full"
        shapes = [MixtureShape(kind, components, shrinkage) for shrinkage in SHRINKAGES]
    try:
        nats = np.zeros(len(shapes))
        for fold in split_sources(groups_N, FOLDS) if len(shapes) > 1 else ():
            held_out = np.isin(groups_N, fold)
            em = fitter.fit(features_ND[~held_out], shapes[0])
            mixtures = [stack_mixture(make_mixture(em, shape)) for shape in shapes]
            nats += [float(score_blocks(mixture, features_ND[held_out]).mean()) for mixture in mixtures]
        shape = shapes[int(nats.argmax())]
        return make_mixture(fitter.fit(features_ND, shape), shape), describe_shape(shape)
    except ValueError as error:
        message = f"the mixture cannot be fitted: {error}; or keep it with --calibration-only"
        raise UsageError(message) from error
