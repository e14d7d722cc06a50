"""EM compared with scikit-learn's from the same responsibilities, and its invariants."""

import numpy as np
import pytest
from hypothesis import example, given, reject, settings
from hypothesis import strategies as st
from scipy.special import softmax
from sklearn.cluster import kmeans_plusplus
from sklearn.mixture import GaussianMixture as Reference

from scorer.fitting.em import EmProgress, fit_em
from scorer.fitting.em_full import LOOSE_NORM, FullSteps, bound_norm
from scorer.fitting.em_shared import Parameters, SingularCovariance
from scorer.fitting.seeding import draw_seeds, seed_responsibilities
from scorer.fitting.shapes import Covariance

VARIANCE = 1e-6


def draw_features(count: int, size: int, components: int, spread: float = 2.0, seed: int = 0) -> np.ndarray:
    """Return FP32 features of overlapping, correlated clusters of different sizes, far from the origin."""
    rng = np.random.default_rng(seed)
    of = rng.choice(components, count, p=rng.dirichlet(np.full(components, 5.0)))
    centres = rng.normal(0, spread, (components, size)) / np.sqrt(size / 4)
    mixing = np.eye(size) + rng.normal(0, 0.5 / np.sqrt(size), (components, size, size))
    noise = rng.normal(size=(count, size)) * np.linspace(1, 0.1, size)
    return (10 + centres[of] + np.einsum("nd,nde->ne", noise, mixing[of])).astype(np.float32)


def fit_reference(
    features: np.ndarray, responsibilities: np.ndarray, covariance: Covariance, tolerance: float, iterations: int = 500
) -> Reference:
    """Return scikit-learn's fit from these responsibilities, by its own initialisation and loop."""

    class Started(Reference):
        def _initialize_parameters(self, X: np.ndarray, *_: object, **__: object) -> None:
            self._initialize(X, responsibilities)

    return Started(
        responsibilities.shape[1], covariance_type=covariance, tol=tolerance, reg_covar=VARIANCE, max_iter=iterations
    ).fit(features.astype(np.float64))


@pytest.mark.slow
@pytest.mark.parametrize("covariance", ["full", "tied", "diag"])
@pytest.mark.parametrize(
    ("count", "size", "components", "spread"),
    [(300, 2, 2, 0.7), (600, 12, 1, 2), (2000, 12, 5, 2), (1500, 64, 3, 2), (3000, 160, 2, 2)],
)
def test_the_bound_is_scikit_learns(
    covariance: Covariance, count: int, size: int, components: int, spread: float
) -> None:
    """From the same responsibilities both converge to the same bound, with a relative difference below 1e-6."""
    features = draw_features(count, size, components, spread)
    start = seed_responsibilities(features, components, 1.0, 7)
    reference = fit_reference(features, start, covariance, 1e-9)
    fit = fit_em(features, start, covariance, VARIANCE, tolerance_nats=1e-9, max_iterations=500)
    assert fit.converged
    assert fit.bound_nats == pytest.approx(reference.score(features.astype(np.float64)), rel=1e-6)
    np.testing.assert_allclose(fit.weights, reference.weights_, atol=1e-4)
    np.testing.assert_allclose(fit.means, reference.means_, atol=1e-2)
    assert fit.covariances.shape == reference.covariances_.shape
    np.testing.assert_allclose(fit.covariances, reference.covariances_, atol=1e-2)


@pytest.mark.slow
def test_optimisations_do_not_change_the_iterations() -> None:
    """Most pairs of a face and a component are not evaluated, and every bound still equals scikit-learn's."""
    features = draw_features(4000, 48, 6, spread=14)
    start = seed_responsibilities(features, 6, VARIANCE, 1)
    bounds: list[EmProgress] = []
    steps = FullSteps(features, VARIANCE, np)
    evaluated = []
    responsibilities = start
    for iteration in range(1, 7):
        joint = steps.expect(steps.maximise(responsibilities, np.float64), np.float64)
        evaluated.append(np.isfinite(joint).mean())
        peak = joint.max(axis=1, keepdims=True)
        bound = float((peak[:, 0] + np.log(np.exp(joint - peak).sum(axis=1))).mean())
        bounds.append(EmProgress(iteration, bound, 0))
        responsibilities = np.exp(joint - peak)
        responsibilities /= responsibilities.sum(axis=1, keepdims=True)
        with pytest.warns(UserWarning, match="did not converge"):
            reference = fit_reference(features, start, "full", 0, iteration)
        assert bound == pytest.approx(reference.lower_bound_, rel=1e-9)
    assert evaluated[0] == 1
    assert evaluated[-1] < 0.4


@settings(deadline=None, max_examples=200)
@given(st.integers(0, 2**32 - 1), st.floats(-1, 1), st.floats(3, 30))
def test_only_negligible_pairs_are_omitted(seed: int, scale: float, shift: float) -> None:
    """For any change of the parameters, omitted pairs are 50 nats below the highest; all others are exact."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(64, 4)) * 3
    steps, fresh = (FullSteps(features, 0, np) for _ in range(2))
    moved = [draw_parameters(rng, 0, 0), draw_parameters(rng, scale, shift), draw_parameters(rng, 0, shift)]
    for parameters in moved:
        joint = steps.expect(parameters, np.float64)
    whole = fresh.expect(moved[-1], np.float64)
    assert np.isfinite(whole).all()
    kept = np.isfinite(joint)
    np.testing.assert_allclose(joint[kept], whole[kept], rtol=1e-12)
    margin = whole.max(axis=1, keepdims=True) - whole
    assert margin[~kept].min(initial=np.inf) >= 50


@settings(deadline=None, max_examples=100)
@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.floats(0, 2))
@example(seed=11557, size=1, change=1.0)  # a change above LOOSE_NORM
def test_the_norm_is_bounded_tightly(seed: int, size: int, change: float) -> None:
    """The bound is at least the spectral norm, within its documented factor, and infinite for a change too large."""
    rng = np.random.default_rng(seed)
    before, now = (np.tril(np.eye(size) * 3 + rng.normal(0, 1 / size, (size, size))) for _ in range(2))
    now = before + change * (now - before)
    now += np.diag(np.maximum(0.1 - np.diag(now), 0))
    true = np.linalg.norm(np.linalg.solve(before, now), 2)
    bound = bound_norm(np.linalg.inv(before).T, now, np)
    excess_DD = np.linalg.solve(before, now) @ np.linalg.solve(before, now).T - np.eye(size)
    assert bound > true * (1 - 1e-4)
    if np.isinf(bound):
        assert np.linalg.norm(excess_DD) > LOOSE_NORM * (1 - 1e-4)
        return
    excess = np.linalg.norm(excess_DD, 2)
    assert bound < max(np.sqrt(1 + excess * size**0.125), np.sqrt(1.02)) * (1 + 1e-4)


def test_the_update_is_the_weighted_mean_and_covariance() -> None:
    """The M step gives the means and covariances weighted by the responsibilities."""
    rng = np.random.default_rng(6)
    features = rng.normal(3, 2, (400, 5))
    shares = rng.dirichlet([0.1, 0.1, 0.1], 400)
    found = FullSteps(features, 0.25, np).maximise(shares, np.float64)
    for component in range(3):
        np.testing.assert_allclose(found.means[component], np.average(features, axis=0, weights=shares[:, component]))
        expected = np.cov(features.T, aweights=shares[:, component], ddof=0) + 0.25 * np.eye(5)
        np.testing.assert_allclose(found.covariances[component], expected, rtol=1e-9)


def draw_parameters(rng: np.random.Generator, scale: float, shift: float) -> Parameters:
    """Return three components of 4 features: deviations up to 10^scale, distances of means about `shift`."""
    roots = (np.eye(4) + rng.normal(0, 0.3, (3, 4, 4))) * 10 ** (scale * rng.random((3, 1, 1)))
    return Parameters(np.full(3, 1 / 3), rng.normal(0, 1 + shift, (3, 4)), roots @ np.swapaxes(roots, 1, 2))


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10_000), st.sampled_from(["full", "tied", "diag"]), st.integers(1, 4))
def test_the_bound_never_falls(seed: int, covariance: Covariance, components: int) -> None:
    """Without an added variance, no iteration in double precision lowers the bound."""
    features = draw_features(120, 3, 3, seed=seed)
    iterations: list[EmProgress] = []
    try:
        fit_em(
            features, seed_responsibilities(features, components, 1.0, seed), covariance, 0, report=iterations.append
        )
    except SingularCovariance:  # a component with one or two faces has a singular covariance
        reject()
    restarts = sum(np.isposinf(step.change_nats) for step in iterations)
    assert restarts == (2 if covariance == "full" and components > 1 else 1)
    first = max(index for index, step in enumerate(iterations) if np.isposinf(step.change_nats))
    assert all(step.change_nats > -1e-9 for step in iterations[first:])


@pytest.mark.parametrize("covariance", ["full", "tied", "diag"])
def test_order_and_units_do_not_matter(covariance: Covariance) -> None:
    """A permutation of the faces and an affine change of the features change the mixture accordingly."""
    features = draw_features(800, 6, 3)
    start = seed_responsibilities(features, 3, 1.0, 5)
    order = np.random.default_rng(0).permutation(len(features))
    plain = fit_em(features, start, covariance, 0, tolerance_nats=1e-10)
    moved = fit_em(features[order].astype(np.float64) * 4 - 7, start[order], covariance, 0, tolerance_nats=1e-10)
    assert moved.bound_nats == pytest.approx(plain.bound_nats - 6 * np.log(4), abs=1e-6)
    np.testing.assert_allclose(moved.means, plain.means * 4 - 7, atol=1e-3)


def test_seeds_are_scikit_learns() -> None:
    """The first responsibilities are those of round components of the given variance at scikit-learn's seeds."""
    features = draw_features(500, 8, 4).astype(np.float64)
    seeds, _ = kmeans_plusplus(features, 4, random_state=2024)
    distances = ((features[:, None] - seeds) ** 2).sum(axis=2)
    np.testing.assert_allclose(
        seed_responsibilities(features, 4, 0.05, 2024), softmax(-distances / (2 * 0.05), axis=1), atol=1e-9
    )


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1), st.integers(1, 12))
def test_seeds_are_drawn_as_scikit_learn_draws_them(seed: int, components: int) -> None:
    """For any seed and number of components the same faces are chosen."""
    features = draw_features(200, 6, 3, seed=seed % 1000).astype(np.float64)
    _, expected = kmeans_plusplus(features, components, random_state=seed)
    assert draw_seeds(features, components, seed).tolist() == expected.tolist()


def test_seeding_does_not_need_a_variance() -> None:
    """Without variance each face belongs to its nearest seed."""
    shares = seed_responsibilities(draw_features(200, 5, 2), 4, 0, 3)
    assert set(np.unique(shares)) == {0, 1}
    assert (shares.sum(axis=0) >= 1).all()


@pytest.mark.parametrize(
    ("features", "components", "words"),
    [
        (np.zeros((3, 2)), 4, "4 components need at least as many faces, not 3"),
        (np.repeat(np.eye(2), 10, axis=0), 3, "only 2 distinct faces for 3 components"),
    ],
)
@pytest.mark.filterwarnings("ignore:invalid value")
def test_too_few_faces_are_refused(features: np.ndarray, components: int, words: str) -> None:
    """Fewer faces, or fewer distinct faces, than components is an error with both numbers."""
    with pytest.raises(ValueError, match=words):
        seed_responsibilities(features, components, 0, 0)


@pytest.mark.parametrize("covariance", ["full", "tied"])
def test_a_singular_covariance_is_an_error(covariance: Covariance) -> None:
    """With fewer faces than features and no added variance, the error names both numbers and what to do."""
    features = draw_features(20, 32, 1)
    with pytest.raises(SingularCovariance, match=r"32 features is singular: .* from 20 faces.*variance_floor"):
        fit_em(features, np.ones((20, 1)), covariance, 0)


def test_a_constant_feature_is_named_singular() -> None:
    """A diagonal covariance with a constant feature is refused, and fitted if variance is added."""
    features = np.concatenate([draw_features(50, 3, 1), np.ones((50, 1))], axis=1)
    with pytest.raises(SingularCovariance, match="does not vary"):
        fit_em(features, np.ones((50, 1)), "diag", 0)
    assert fit_em(features, np.ones((50, 1)), "diag", 1e-3).converged


@pytest.mark.parametrize("covariance", ["full", "tied", "diag"])
def test_a_lost_component_is_an_error(covariance: Covariance) -> None:
    """A component without faces is an error."""
    start = np.zeros((100, 3))
    start[:60, 0] = start[60:, 2] = 1
    with pytest.raises(ValueError, match=r"1 of 3 components lost all their faces: fit 2 components"):
        fit_em(draw_features(100, 3, 2), start, covariance, 1e-3)


def test_a_component_lost_during_the_fit_is_an_error() -> None:
    """A component between two clusters with a small shared covariance loses all its faces after one step."""
    rng = np.random.default_rng(0)
    side = np.arange(2000) % 2
    start = np.full((2000, 3), 5e-4)
    start[np.arange(2000), side] = 1 - 1e-3
    with pytest.raises(ValueError, match="1 of 3 components lost all their faces"):
        fit_em(rng.normal(size=(2000, 4)) + 200.0 * side[:, None], start, "tied", 1e-3)


def test_a_feature_that_is_not_finite_is_an_error() -> None:
    """NaN and infinity would affect every parameter."""
    for bad in (np.nan, np.inf):
        features = draw_features(50, 3, 1)
        features[7, 1] = bad
        with pytest.raises(ValueError, match="not finite"):
            fit_em(features, np.ones((50, 1)), "full", 1e-3)
