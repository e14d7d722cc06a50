"""The mixture: agreement with scikit-learn, choice by held-out likelihood, calibration."""

import numpy as np
import pytest
from sklearn.mixture import GaussianMixture as Estimator

from training.calibrate import calibrate, name_calibration
from training.mixture_fit import choose_mixture, fit_shape, mean_log_likelihood
from training.recipes import MixtureRule, MixtureShape


@pytest.fixture(name="features")
def fixture_features() -> np.ndarray:
    """400 correlated rows of 12 features around two centres."""
    rng = np.random.default_rng(0)
    mix = rng.normal(size=(12, 12)) / 3
    centres = rng.normal(0, 4, (2, 12))
    return rng.normal(size=(400, 12)) @ mix + centres[rng.integers(2, size=400)]


@pytest.mark.parametrize("covariance", ["diag", "full"])
def test_fit_agrees_with_scikit_learn(features: np.ndarray, covariance: str) -> None:
    """Without shrinkage, the stored mixture's likelihood is scikit-learn's up to half-precision rounding."""
    rule = MixtureRule(variance_floor=1e-6)
    mixture = fit_shape(features, MixtureShape(covariance, 2), rule)
    estimator = Estimator(
        2, covariance_type=covariance, random_state=rule.seed, init_params="k-means++", max_iter=200
    ).fit(features)
    assert mixture.precisions_cholesky.dtype == np.float16
    assert mean_log_likelihood(mixture, features) == pytest.approx(estimator.score(features), abs=0.02)


def test_full_shrinkage_is_diagonal(features: np.ndarray) -> None:
    """Shrinking every correlation to zero leaves the variances alone."""
    mixture = fit_shape(features, MixtureShape("full", 1, 1.0), MixtureRule(variance_floor=1e-9))
    factor = mixture.precisions_cholesky[0].astype(float)
    np.testing.assert_allclose(1 / np.diag(factor) ** 2, features.var(axis=0), rtol=2e-3)
    assert np.abs(factor - np.diag(np.diag(factor))).max() == 0


def test_held_out_sources_choose(features: np.ndarray) -> None:
    """Two separate centres, seen in every source, are better explained by two components than by one."""
    rule = MixtureRule((MixtureShape("diag", 1), MixtureShape("diag", 2)), role_sets=(("fit",),))
    sources = np.array(["a", "b", "c", "d"])[np.arange(400) % 4]
    fitted = choose_mixture({"fit": features}, {"fit": sources}, rule)
    assert fitted.shape.components == 2
    assert fitted.held_out_nats["fit diag K=2"] > fitted.held_out_nats["fit diag K=1"]


def test_calibration_is_sorted_and_named_by_content(features: np.ndarray) -> None:
    """Ascending nats, and a name that any change of a value changes."""
    mixture = fit_shape(features, MixtureShape("diag", 1), MixtureRule())
    values = calibrate(mixture, features[:50].astype(np.float32))
    assert (np.diff(values) >= 0).all()
    assert name_calibration(values) != name_calibration(values + 1e-9)


def test_a_face_without_a_likelihood_stops_calibration(features: np.ndarray) -> None:
    """NaN would sort anywhere and make every p-value wrong."""
    mixture = fit_shape(features, MixtureShape("diag", 1), MixtureRule())
    with pytest.raises(ValueError, match="no finite log-likelihood"):
        calibrate(mixture, np.full((1, 12), np.nan, dtype=np.float32))
