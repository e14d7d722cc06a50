"""Figures of a detector compared with scikit-learn and with plain loops."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from training.evaluation.compare.metrics import draw_figures, measure_detector, orient, resolves, summarise

VALUES = st.lists(st.integers(-5, 5).map(float), min_size=1, max_size=30)
MANY = st.lists(st.integers(-30, 30).map(float), min_size=100, max_size=130)


def figures_of(real: list[float], others: list[float], own_threshold: float | None = None) -> dict[str, float]:
    """Return the figures of two samples without draws."""
    clusters = np.arange(len(real)).astype(str)
    drawn = draw_figures(np.array(real), clusters, {"g": np.array(others)}, own_threshold=own_threshold, bootstraps=0)
    return {name: float(values[0]) for name, values in drawn["g"].items()}


@given(VALUES, VALUES)
def test_average_precisions_are_scikit_learn_s(real: list[float], others: list[float]) -> None:
    """Both conventions equal scikit-learn's with weights that make the classes equal."""
    figures = figures_of(real, others)
    weights = [1 / len(real)] * len(real) + [1 / len(others)] * len(others)
    values = np.array(real + others)
    generated = np.array([0] * len(real) + [1] * len(others))
    for name, labels, scores in (("ap_generated", generated, -values), ("ap_real", 1 - generated, values)):
        expected = average_precision_score(labels, scores, sample_weight=weights)
        assert figures[name] == pytest.approx(expected)


@settings(max_examples=40)
@given(MANY, VALUES)
def test_matched_thresholds_are_those_of_a_plain_loop(real: list[float], others: list[float]) -> None:
    """The threshold is the highest that flags at most the rate of the photographs."""
    figures = figures_of(real, others, own_threshold=0.5)
    for rate in (0.05, 0.01):
        best, kept = 0.0, 1.0
        for threshold in sorted(set(real + others)):
            alarms = sum(value <= threshold for value in real) / len(real)
            if alarms <= rate:
                best, kept = sum(value <= threshold for value in others) / len(others), 1 - alarms
        assert figures[f"tpr_{rate:g}"] == pytest.approx(best)
        if rate == 0.05:
            assert figures["accuracy"] == pytest.approx((best + kept) / 2)
    right = np.mean([value >= 0.5 for value in real]) + np.mean([value < 0.5 for value in others])
    assert figures["accuracy_own"] == pytest.approx(right / 2)


def test_orientation() -> None:
    """A logit of generated faces and a log-likelihood of photographs give the same figures."""
    scores = np.array([3.0, 1.0, -2.0], np.float32)
    np.testing.assert_array_equal(orient(scores, higher_is_generated=True), [-3, -1, 2])
    np.testing.assert_array_equal(orient(-scores, higher_is_generated=False), [-3, -1, 2])


def test_rates_that_photographs_cannot_resolve_are_left_out() -> None:
    """1 % needs 99 photographs, 5 % needs 19."""
    assert [resolves(0.01, count) for count in (98, 99)] == [False, True]
    assert [resolves(0.05, count) for count in (18, 19)] == [False, True]
    rng = np.random.default_rng(0)
    names = np.arange(50).astype(str)
    row = measure_detector(rng.normal(size=50), (names, names), {"g": rng.normal(-1, 1, 20)}).figures["g"]
    assert row["tpr_0.01"] is None
    assert row["tpr_0.05"] is not None
    assert row["accuracy_own"] is None


def test_intervals_draw_whole_sources() -> None:
    """Photographs of one source are drawn together, which widens intervals."""
    rng = np.random.default_rng(1)
    sources = np.repeat(np.arange(12), 20)
    real, others = rng.normal(size=12)[sources] + rng.normal(0, 0.3, 240), {"g": rng.normal(-1, 1, 300)}
    widths = []
    for clusters in (sources, np.arange(240)):
        rate = summarise(draw_figures(real, clusters.astype(str), others)["g"]["ap_generated"], 300)
        assert rate.low < rate.value < rate.high
        widths.append(rate.high - rate.low)
    assert widths[0] > 1.5 * widths[1]


def test_draws_are_the_same_for_every_detector() -> None:
    """Detectors of the same faces can be compared draw by draw."""
    rng = np.random.default_rng(2)
    real, others = rng.normal(size=120), {"g": rng.normal(-1, 1, 50), "h": rng.normal(-2, 1, 40)}
    clusters = np.arange(120).astype(str)
    first, second = (
        draw_figures(scale * real, clusters, {n: scale * v for n, v in others.items()}) for scale in (1, 3)
    )
    for name in others:
        np.testing.assert_array_equal(first[name]["tpr_0.05"], second[name]["tpr_0.05"])
