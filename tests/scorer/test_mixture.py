"""The mixture against scikit-learn, and its properties."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.mixture import GaussianMixture as ReferenceMixture

from scorer.mixture import (
    STEP_NATS,
    GaussianMixture,
    component_log_likelihood,
    log_likelihood,
    round_nats,
    stack_mixture,
)

FULL, DIAGONAL = "full", "diag"


def fitted(
    covariance_type: str, components: int = 3, size: int = 12
) -> tuple[ReferenceMixture, GaussianMixture, np.ndarray]:
    """Return scikit-learn's mixture, ours with the same parameters, and features to score."""
    rng = np.random.default_rng(7)
    centres = rng.normal(scale=3, size=(components, size))
    features = centres[rng.integers(0, components, 400)] + rng.normal(size=(400, size)) @ rng.normal(size=(size, size))
    reference = ReferenceMixture(components, covariance_type=covariance_type, random_state=0).fit(features)
    ours = GaussianMixture(reference.weights_, reference.means_, reference.precisions_cholesky_)
    return reference, ours, features


@pytest.mark.parametrize("covariance_type", [FULL, DIAGONAL])
@pytest.mark.parametrize(("dtype", "bound_nats"), [(np.float64, STEP_NATS), (np.float32, 1e-3)])
def test_log_likelihood_equals_scikit_learn(covariance_type: str, dtype: type, bound_nats: float) -> None:
    """Both precisions stay within their stated bound of scikit-learn's score_samples."""
    reference, ours, features = fitted(covariance_type)
    scores = log_likelihood(features.astype(dtype), stack_mixture(ours, dtype))
    assert scores.dtype == dtype
    np.testing.assert_allclose(scores, reference.score_samples(features), rtol=0, atol=bound_nats)


def test_paper_sized_mixture_in_single_precision() -> None:
    """At K=8, D=768 single precision stays within 1e-3 nats, and double within the step that it is rounded to."""
    rng = np.random.default_rng(3)
    components, size = 8, 768
    means = rng.normal(scale=0.3, size=(components, size))
    factors = np.triu(rng.normal(scale=0.02, size=(components, size, size)), 1) + np.eye(size)
    mixture = GaussianMixture(np.full(components, 1 / components), means, factors)
    reference = ReferenceMixture(components)
    reference.weights_, reference.means_, reference.precisions_cholesky_ = mixture.weights, means, factors
    features = means[rng.integers(0, components, 64)] + rng.normal(size=(64, size))
    expected = reference.score_samples(features)
    single = log_likelihood(features.astype(np.float32), stack_mixture(mixture, np.float32))
    np.testing.assert_allclose(single, expected, rtol=0, atol=1e-3)
    np.testing.assert_allclose(
        log_likelihood(features, stack_mixture(mixture, np.float64)), expected, rtol=0, atol=STEP_NATS
    )


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 12))
def test_panels_do_not_change_the_likelihood(panels: int) -> None:
    """Skipping the zeros of triangular factors changes no score."""
    _, ours, features = fitted(FULL)
    whole = log_likelihood(features, stack_mixture(ours, np.float64, panels=1))
    np.testing.assert_allclose(
        log_likelihood(features, stack_mixture(ours, np.float64, panels=panels)), whole, atol=STEP_NATS
    )


@settings(deadline=None, max_examples=25)
@given(st.permutations(range(3)))
def test_order_of_components_does_not_matter(order: list[int]) -> None:
    """A mixture is a set: renaming its components changes no score."""
    _, ours, features = fitted(FULL)
    shuffled = GaussianMixture(ours.weights[order], ours.means[order], ours.precisions_cholesky[order])
    expected = log_likelihood(features, stack_mixture(ours, np.float64))
    np.testing.assert_allclose(log_likelihood(features, stack_mixture(shuffled, np.float64)), expected, atol=STEP_NATS)


@pytest.mark.parametrize("components", [1, 8])
@pytest.mark.parametrize(("dtype", "bound_nats"), [(np.float32, 1e-3), (np.float64, 0)])
def test_a_face_scores_the_same_in_any_batch(components: int, dtype: type, bound_nats: float) -> None:
    """At the paper's size, a face's log-likelihood does not depend on its batch: bit for bit in double precision."""
    rng = np.random.default_rng(5)
    factors = np.triu(rng.normal(scale=0.02, size=(components, 768, 768)), 1) + np.eye(768)
    means = rng.normal(size=(components, 768))
    stacked = stack_mixture(GaussianMixture(np.full(components, 1 / components), means, factors), dtype)
    features = rng.normal(size=(130, 768)).astype(dtype)
    whole = log_likelihood(features, stacked)
    for start, stop in ((0, 1), (0, 2), (3, 8), (5, 20), (1, 33), (60, 124), (129, 130), (7, 130)):
        alone = log_likelihood(features[start:stop], stacked)
        np.testing.assert_allclose(alone, whole[start:stop], rtol=0, atol=bound_nats)


@given(st.floats(-1e6, 1e6), st.floats(-1e-12, 1e-12))
def test_likelihoods_are_rounded(nats: float, noise: float) -> None:
    """A reported likelihood is a multiple of the step, and last bits of a sum change it only on an edge."""
    rounded = round_nats(np.array([nats, nats + noise]))
    assert (rounded % STEP_NATS == 0).all()
    assert abs(rounded[0] - nats) <= STEP_NATS / 2
    edge = abs(nats / STEP_NATS % 1 - 0.5) <= 1e-9 / STEP_NATS
    assert edge or rounded[0] == rounded[1]


@pytest.mark.parametrize("covariance_type", [FULL, DIAGONAL])
def test_no_face_has_no_likelihood(covariance_type: str) -> None:
    """A batch without faces gives an empty answer, not an error."""
    _, ours, features = fitted(covariance_type)
    assert log_likelihood(features[:0], stack_mixture(ours)).shape == (0,)


def test_components_sum_to_the_whole() -> None:
    """The log-likelihood is the log-sum-exp of the component terms."""
    _, ours, features = fitted(FULL)
    stacked = stack_mixture(ours, np.float64)
    joint = component_log_likelihood(features, stacked)
    np.testing.assert_allclose(np.logaddexp.reduce(joint, axis=1), log_likelihood(features, stacked), atol=STEP_NATS)


@pytest.mark.filterwarnings("ignore:invalid value")
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_features_that_are_not_finite_never_look_likely(bad: float) -> None:
    """One broken feature makes its own row NaN and does not change the others."""
    _, ours, features = fitted(FULL)
    stacked = stack_mixture(ours, np.float64)
    broken = features[:8].copy()
    broken[3, 5] = bad
    scores = log_likelihood(broken, stacked)
    assert not np.isfinite(scores[3]) or scores[3] == -np.inf
    np.testing.assert_array_equal(np.delete(scores, 3), np.delete(log_likelihood(features[:8], stacked), 3))


@pytest.mark.parametrize(
    ("weights", "means", "factors", "word"),
    [
        (np.ones(2) / 2, np.zeros((3, 4)), np.ones((3, 4)), "weights"),
        (np.ones(3) / 3, np.zeros((3, 4)), np.ones((3, 5)), "factors"),
        (np.ones(3) / 3, np.full((3, 4), np.nan), np.ones((3, 4)), "finite"),
        (np.ones(3), np.zeros((3, 4)), np.ones((3, 4)), "sum to one"),
        (np.ones(3) / 3, np.zeros((3, 4)), -np.ones((3, 4)), "diagonal"),
    ],
)
def test_impossible_parameters_are_refused(
    weights: np.ndarray, means: np.ndarray, factors: np.ndarray, word: str
) -> None:
    """Parameters that are no mixture are refused with a sentence that names the fault."""
    with pytest.raises(ValueError, match=word):
        GaussianMixture(weights, means, factors)
