"""AUC, intervals and equal error rate compared with their definitions."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score
from sklearn.metrics import roc_curve as sklearn_roc_curve

from training.evaluation.measures import auc, bootstrap_aucs, count_share, equal_error_rate, roc_curve

NATS = st.lists(st.integers(-5, 5).map(float), min_size=1, max_size=30)


@given(NATS, NATS)
def test_auc_is_scikit_learn_s(photographs: list[float], others: list[float]) -> None:
    """A low likelihood counts as a detection, and ties count half."""
    labels = [0] * len(photographs) + [1] * len(others)
    expected = roc_auc_score(labels, [-value for value in photographs + others])
    assert auc(np.array(photographs), np.array(others)) == pytest.approx(expected)


@given(NATS, NATS)
def test_roc_curve_is_scikit_learn_s(photographs: list[float], others: list[float]) -> None:
    """The false alarms and detections of every threshold equal scikit-learn's."""
    labels = [0] * len(photographs) + [1] * len(others)
    expected = sklearn_roc_curve(labels, [-value for value in photographs + others], drop_intermediate=False)[:2]
    for mine, theirs in zip(roc_curve(np.array(photographs), np.array(others)), expected, strict=True):
        np.testing.assert_allclose(mine, theirs)


@given(NATS, NATS)
def test_equal_error_rate_lies_on_the_curve(photographs: list[float], others: list[float]) -> None:
    """At the equal error rate, false alarms equal misses on the interpolated curve."""
    real, generated = np.array(photographs), np.array(others)
    rate = equal_error_rate(real, generated)
    alarms, found = roc_curve(real, generated)
    # Along a vertical step the detection rate takes every value between its ends.
    reached = found[alarms <= rate + 1e-12].max(), found[alarms >= rate - 1e-12].min()
    between = np.interp(rate, alarms, found)
    assert min(*reached, between) - 1e-9 <= 1 - rate <= max(*reached, between) + 1e-9


@pytest.mark.parametrize(("shift", "expected"), [(0.0, 0.5), (-100.0, 0.0), (100.0, 1.0)])
def test_equal_error_rate_of_the_extremes(shift: float, expected: float) -> None:
    """Equal samples give 0.5, a far lower sample gives 0, a far higher sample gives 1."""
    values = np.arange(20.0)
    assert equal_error_rate(values, values + shift) == pytest.approx(expected, abs=0.03)


def test_bootstrap_widens_when_faces_share_photographs() -> None:
    """Ten faces of one photograph are resampled together, not separately."""
    rng = np.random.default_rng(0)
    shuffled = rng.permutation(120)
    values, groups = np.repeat(rng.normal(size=12), 10)[shuffled], np.repeat(np.arange(12).astype(str), 10)[shuffled]
    others = rng.normal(-1, 1, 200)
    together = bootstrap_aucs(values, groups, {"g": others})[1]
    apart = bootstrap_aucs(values, np.arange(120).astype(str), {"g": others})[1]
    assert together.low < together.value < together.high
    assert together.high - together.low > 1.5 * (apart.high - apart.low)


def test_bootstrap_covers_the_truth() -> None:
    """For 60 samples of a known AUC, at most eight 95 % intervals miss it."""
    rng = np.random.default_rng(3)
    truth, misses = 0.7602, 0  # normal distributions one standard deviation apart: Phi(1 / sqrt 2)
    for seed in range(60):
        real, others = rng.normal(size=80), {"g": rng.normal(-1, 1, 80)}
        _, rate = bootstrap_aucs(real, np.arange(80).astype(str), others, seed)
        misses += not rate.low <= truth <= rate.high
    assert misses <= 8


def test_mean_auc_is_that_of_the_generators_with_one_draw_of_photographs() -> None:
    """Equal generators have the mean of one; each draw of photographs serves both."""
    rng = np.random.default_rng(5)
    values, near, far = rng.normal(size=60), rng.normal(-1, 1, 900), rng.normal(-3, 1, 900)
    clusters = np.arange(60).astype(str)
    rates, mean = bootstrap_aucs(values, clusters, {"near": near, "far": far})
    assert mean.value == pytest.approx((rates["near"].value + rates["far"].value) / 2)
    assert rates["near"].value == auc(values, near)
    _, twice = bootstrap_aucs(values, clusters, {"a": near, "b": near})
    assert twice.high - twice.low > 0.85 * (rates["near"].high - rates["near"].low)


def test_shares_have_clopper_and_pearson_s_interval() -> None:
    """One hit in ten has the published interval; the hits of one cluster are one case."""
    hits = np.arange(10) == 0
    rate = count_share(hits)
    assert (rate.value, rate.count) == (0.1, 10)
    assert (rate.low, rate.high) == pytest.approx((0.0025, 0.4450), abs=1e-4)
    together = count_share(np.repeat(hits, 10), np.repeat(np.arange(10).astype(str), 10))
    assert together.high > rate.high > count_share(np.repeat(hits, 10)).high
