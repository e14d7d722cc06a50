"""Fit a bundle's mixture and calibration, or its calibration alone, to the photographs of a finished run.

Half of the groups (sources, where there are enough) fit the mixture, and the others calibrate it, so that no photograph
and no source does both. Faces are used whatever their decision was: leaving out flagged faces would make the promised
rates false. Only faces that a reviewer labelled otherwise than `photograph` are left out.

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
from scorer.fitting.fit import Fitter, describe_shape, make_mixture, mean_log_likelihood, split_sources
from scorer.fitting.shapes import Covariance, MixtureRule, MixtureShape
from scorer.mixture import GaussianMixture

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
    report("reading the run")
    faces = read_faces(folder, by or "source", labels)
    if faces.run.bundle_digest != bundle.model.digest:
        message = (
            f"{folder} was scored with {faces.run.bundle_id} (digest {faces.run.bundle_digest}), and "
            f"{bundle.folder} is {bundle.manifest.bundle_id} (digest {bundle.model.digest}): name the bundle of the run"
        )
        raise UsageError(message)
    notes = [f"{faces.unknown_labels} labels name no result of the run"] if faces.unknown_labels else []
    if by is None and faces.count("source") < MIN_SOURCES:
        notes.append(
            f"the run has {faces.count('source')} sources, under {MIN_SOURCES}: photographs were split and not "
            "sources, so a new source can cause more false alarms"
        )
        by = PHOTOGRAPH
        faces = read_faces(folder, by, labels)
    left_out = faces.labelled(Label.GENERATED, Label.UNSURE)
    plan = faces.run.plan_digest[:12] or "unknown"
    facts = {"scan": f"of {faces.run.created_at:%Y-%m-%d}, plan {plan}, {faces.describe()}"}
    if faces.copies:
        facts["counted once"] = f"{faces.copies:,} faces are copies of others"
    if labels is not None:
        facts["left out by reviewers"] = f"{int(left_out.sum()):,} faces labelled generated or unsure"
    faces = _sample(faces.select(~left_out), notes)
    if calibration_only:
        _require_photographs(faces, "the calibration")
        mixture, held_out = None, faces
        values = faces.numbers("log_likelihood")
        facts["mixture"] = f"that of {bundle.manifest.bundle_id}"
    else:
        features = read_features(folder, faces, bundle.manifest.feature_size)
        fits = _split(faces, by or "source")
        report("fitting the mixture")
        mixture, shape = _fit(features[fits], faces.select(fits).names("group"), read_mixture(bundle))
        held_out = faces.select(~fits)
        values = score_held_out(mixture, features[~fits])
        gain = values.mean() - held_out.numbers("log_likelihood").mean()
        facts["mixture"] = f"{shape}, fitted on {faces.select(fits).describe()}"
        facts["held-out faces"] = f"{gain:+.1f} nats more likely under it than under the mixture before"
        if gain < 0:
            notes.append(
                "the mixture before describes held-out faces better: use --calibration-only, or scan more photographs"
            )
    facts["calibration"] = held_out.describe()
    facts["groups"] = f"{by or 'source'}: none of them fits the mixture and calibrates it"
    photographs = held_out.names("photograph")
    parts, sizes = split_by_stratum(values, photographs, held_out.names("stratum")) if strata else ({}, {})
    calibration = Calibration(np.sort(values), parts)
    fields = make_manifest_fields(calibration, len(np.unique(photographs)), sizes)
    thresholds = {"all": describe_calibration(values, photographs)}
    for stratum in parts:
        rows = held_out.names("stratum") == stratum.value
        thresholds[stratum.value] = describe_calibration(values[rows], photographs[rows])
    if pooled := [f"{each.value} ({size.photographs})" for each, size in sizes.items() if each not in parts]:
        notes.append(
            f"these strata have fewer than {LEAST_STRATUM_PHOTOGRAPHS} photographs, so their faces are compared with all "
            f"photographs: {', '.join(pooled)}"
        )
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


def _split(faces: RunFaces, by: str) -> NDArray[np.bool_]:
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
        _require_photographs(faces.select(half), use, f" after the split by {by}")
    return fits


def _require_photographs(faces: RunFaces, use: str, which: str = "") -> None:
    found, least, default = faces.count("photograph"), photographs_needed(LEAST_RATE), photographs_needed(DEFAULT_RATE)
    if found < least:
        message = (
            f"{use} has {found} photographs{which}: at least {least} are needed, which support a false-alarm rate of "
            f"{100 * LEAST_RATE:g} %, and {default} for {100 * DEFAULT_RATE:g} %; scan more photographs"
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
            nats += [mean_log_likelihood(make_mixture(em, shape), features_ND[held_out]) for shape in shapes]
        shape = shapes[int(nats.argmax())]
        return make_mixture(fitter.fit(features_ND, shape), shape), describe_shape(shape)
    except ValueError as error:
        message = f"the mixture cannot be fitted: {error}; or keep it with --calibration-only"
        raise UsageError(message) from error
