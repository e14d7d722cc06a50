"""The fit of the mixture: agreement with scikit-learn, choice by held-out likelihood, calibration."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.mixture import GaussianMixture as Estimator

from scorer.fitting.calibrate import score_held_out
from scorer.fitting.fit import (
    Candidate,
    Fitter,
    choose_array_module,
    choose_mixture,
    make_mixture,
    replace_components,
    score_blocks,
    score_candidate,
    split_sources,
)
from scorer.fitting.shapes import Covariance, MixtureRule, MixtureShape
from scorer.mixture import GaussianMixture, stack_mixture


@pytest.fixture(name="features")
def fixture_features() -> np.ndarray:
    """400 correlated rows of 12 features around two centres."""
    rng = np.random.default_rng(0)
    mix = rng.normal(size=(12, 12)) / 3
    centres = rng.normal(0, 4, (2, 12))
    return rng.normal(size=(400, 12)) @ mix + centres[rng.integers(2, size=400)]


def mean_log_likelihood(mixture: GaussianMixture, features: np.ndarray) -> float:
    """Return the mean over faces in nats, in double precision."""
    return float(score_blocks(stack_mixture(mixture, np.float64), features).mean())


def fit_shape(features: np.ndarray, shape: MixtureShape, rule: MixtureRule) -> GaussianMixture:
    """Return the stored mixture of one shape."""
    return make_mixture(Fitter(rule).fit(features, shape), shape)


@pytest.mark.parametrize("covariance", ["diag", "full"])
def test_fit_agrees_with_scikit_learn(features: np.ndarray, covariance: str) -> None:
    """Without shrinkage, the stored mixture's likelihood equals scikit-learn's up to half-precision rounding."""
    rule = MixtureRule(variance_floor=1e-6)
    mixture = fit_shape(features, MixtureShape(covariance, 2), rule)
    estimator = Estimator(
        2, covariance_type=covariance, random_state=rule.seed, init_params="k-means++", max_iter=200
    ).fit(features)
    assert mixture.precisions_cholesky.dtype == np.float16
    assert mean_log_likelihood(mixture, features) == pytest.approx(estimator.score(features), abs=0.02)


def test_full_shrinkage_is_diagonal(features: np.ndarray) -> None:
    """A shrinkage of 1 makes all correlations zero and keeps the variances."""
    mixture = fit_shape(features, MixtureShape("full", 1, 1.0), MixtureRule(variance_floor=1e-9))
    factor = mixture.precisions_cholesky[0].astype(float)
    np.testing.assert_allclose(1 / np.diag(factor) ** 2, features.var(axis=0), rtol=2e-3)
    assert np.abs(factor - np.diag(np.diag(factor))).max() == 0


def test_held_out_sources_choose(features: np.ndarray) -> None:
    """For features with two centres in every source, two components are chosen and not one."""
    rule = MixtureRule((MixtureShape("diag", 1), MixtureShape("diag", 2)), role_sets=(("fit",),))
    sources = np.array(["a", "b", "c", "d"])[np.arange(400) % 4]
    fitted = choose_mixture({"fit": features}, {"fit": sources}, Fitter(rule))
    assert str(fitted.candidate) == "fit diag K=2"
    by_name = {str(candidate): held_out.nats for candidate, held_out in fitted.held_out.items()}
    assert by_name["fit diag K=2"] > by_name["fit diag K=1"]


def test_a_face_without_a_likelihood_is_an_error(features: np.ndarray) -> None:
    """NaN would make every p-value wrong."""
    mixture = fit_shape(features, MixtureShape("diag", 1), MixtureRule())
    with pytest.raises(ValueError, match="no finite log-likelihood"):
        score_held_out(mixture, np.full((1, 12), np.nan, dtype=np.float32))


@pytest.mark.parametrize("covariance", ["diag", "full"])
def test_added_variance_is_the_references(features: np.ndarray, covariance: Covariance) -> None:
    """The absolute and the relative part add up to scikit-learn's `reg_covar`."""
    rule = MixtureRule(variance_floor=0.02, variance_added=0.3)
    added = 0.02 * features.var(axis=0).mean() + 0.3
    estimator = Estimator(
        2, covariance_type=covariance, random_state=rule.seed, init_params="k-means++", reg_covar=added
    ).fit(features)
    fit = Fitter(rule).fit(features, MixtureShape(covariance, 2))
    assert fit.bound_nats == pytest.approx(estimator.lower_bound_, abs=2e-3)
    assert mean_log_likelihood(fit_shape(features, MixtureShape(covariance, 2), rule), features) == pytest.approx(
        fit.bound_nats, abs=0.02
    )


def test_a_single_candidate_is_fitted_directly(features: np.ndarray) -> None:
    """A single candidate needs one source only, because nothing is held out; two candidates need a second source."""
    one = MixtureRule((MixtureShape("diag", 2),), role_sets=(("fit",),))
    sources = {"fit": np.full(400, "only")}
    fitted = choose_mixture({"fit": features}, sources, Fitter(one))
    assert fitted.held_out == {}
    two = MixtureRule((MixtureShape("diag", 1), MixtureShape("diag", 2)), role_sets=(("fit",),))
    with pytest.raises(ValueError, match=r"the role fit has 1 source.*prepare more sources"):
        choose_mixture({"fit": features}, sources, Fitter(two))


def test_candidates_that_cannot_be_fitted_are_refused(features: np.ndarray) -> None:
    """A shape with more components than faces is refused with a reason; if none is left, the error has the reason."""
    sources = {"fit": np.array(["a", "b"])[np.arange(400) % 2]}
    possible, impossible = MixtureShape("diag", 2), MixtureShape("diag", 500)
    fitted = choose_mixture(
        {"fit": features}, sources, Fitter(MixtureRule((impossible, possible), role_sets=(("fit",),)))
    )
    assert fitted.candidate.shape == possible
    assert "500 components need at least as many faces" in fitted.refused[Candidate(("fit",), impossible)]
    with pytest.raises(ValueError, match="no candidate of the mixture rule could be fitted; first reason: 500 compon"):
        choose_mixture({"fit": features}, sources, Fitter(MixtureRule((impossible,) * 2, role_sets=(("fit",),))))
    with pytest.raises(ValueError, match="contains no candidate"):
        choose_mixture({"fit": features}, sources, Fitter(MixtureRule(())))


def test_sources_are_never_split() -> None:
    """Up to ten sources make one fold each; more sources make ten folds of similar size."""
    few = np.array(["a", "a", "b", "c"])
    assert sorted(tuple(fold) for fold in split_sources(few)) == [("a",), ("b",), ("c",)]
    many = np.repeat([f"s{index}" for index in range(37)], np.arange(1, 38))
    folds = split_sources(many)
    assert len(folds) == 10
    assert sorted(np.concatenate(folds)) == sorted(set(many))
    sizes = [np.isin(many, fold).sum() for fold in folds]
    assert max(sizes) - min(sizes) <= 37


def test_small_components_are_noted(features: np.ndarray) -> None:
    """Components with fewer faces than features are noted, because their likelihood depends on the added variance."""
    rule = MixtureRule((MixtureShape("full", 60),), role_sets=(("fit",),))
    fitted = choose_mixture({"fit": features}, {"fit": np.full(400, "a")}, Fitter(rule))
    assert any("have at most 12 faces" in note for note in fitted.notes())
    sound = choose_mixture(
        {"fit": features}, {"fit": np.full(400, "a")}, Fitter(replace(rule, shapes=(MixtureShape("full", 2),)))
    )
    assert sound.notes() == []


def test_factors_beyond_half_precision_stay_single(features: np.ndarray) -> None:
    """Very small variances have factors above 65,504, which would become infinite in half precision."""
    mixture = fit_shape(features * 1e-6, MixtureShape("full", 1), MixtureRule(variance_floor=1e-6))
    assert mixture.precisions_cholesky.dtype == np.float32
    assert np.isfinite(mean_log_likelihood(mixture, features * 1e-6))


def test_the_cpu_computes_with_numpy() -> None:
    """If the CPU is requested, the array module is NumPy, with the reason."""
    assert choose_array_module("cpu") == (np, "cpu was asked for")


def test_one_covariance_for_all_is_stored_for_each(features: np.ndarray) -> None:
    """A tied covariance is stored as one factor for each component, with the likelihood of the EM result."""
    rule = MixtureRule(variance_floor=1e-3)
    fit = Fitter(rule).fit(features, MixtureShape("tied", 3))
    mixture = fit_shape(features, MixtureShape("tied", 3), rule)
    assert mixture.precisions_cholesky.shape == (3, 12, 12)
    assert mean_log_likelihood(mixture, features) == pytest.approx(fit.bound_nats, abs=0.02)


def test_a_sweep_replaces_the_numbers_of_components_only(features: np.ndarray) -> None:
    """Each kind of covariance is compared at each number; the best of each number is named, ascending."""
    rule = MixtureRule((MixtureShape("diag", 1), MixtureShape("full", 1, 0.3), MixtureShape("diag", 4)))
    swept = replace_components(replace(rule, role_sets=(("fit",),)), (3, 1))
    assert swept.shapes == (
        MixtureShape("diag", 3),
        MixtureShape("diag", 1),
        MixtureShape("full", 3, 0.3),
        MixtureShape("full", 1, 0.3),
    )
    fitted = choose_mixture({"fit": features}, {"fit": np.array(["a", "b"])[np.arange(400) % 2]}, Fitter(swept))
    best = fitted.best_by_components()
    assert list(best) == [1, 3]
    for count, candidate in best.items():
        others = [held.nats for each, held in fitted.held_out.items() if each.shape.components == count]
        assert fitted.held_out[candidate].nats == max(others)
    assert fitted.candidate in best.values()


def test_false_alarms_are_measured_on_held_out_sources(features: np.ndarray) -> None:
    """About 5 % of the faces of a source like the fitted ones are below the threshold, and all of a distant one."""
    rule = MixtureRule((MixtureShape("diag", 2),), role_sets=(("fit",),))
    sources = np.array(["a", "b", "c", "d"])[np.arange(400) % 4]
    candidate = Candidate(("fit",), rule.shapes[0])
    alike = score_candidate({"fit": features}, {"fit": sources}, candidate, split_sources(sources), Fitter(rule))
    assert 0.02 < alike.alarms < 0.10
    moved = features + 100 * (sources == "d")[:, None]
    distant = score_candidate({"fit": moved}, {"fit": sources}, candidate, [np.array(["d"])], Fitter(rule))
    assert distant.alarms == pytest.approx(0.25)
    assert distant.nats < alike.nats
