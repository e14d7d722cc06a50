"""Laws of joined p-values, and the measurement of fusion on unseen sources."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import combine_pvalues, kstest

from training.evaluation.compare.fusion import (
    METHODS,
    Pair,
    conclude,
    fuse,
    join_fisher,
    join_harmonic,
    join_minimum,
    split_sources,
)

UNIT = st.floats(1e-6, 1)
Join = Callable[[np.ndarray, np.ndarray], np.ndarray]


@pytest.mark.parametrize("join", [join_fisher, join_harmonic])
def test_independent_uniforms_stay_uniform(join: Join) -> None:
    """Fisher's and the harmonic p-values of independent uniform p-values are uniform."""
    first, second = np.random.default_rng(0).uniform(size=(2, 40_000))
    assert kstest(join(first, second), "uniform").pvalue > 0.01


@pytest.mark.parametrize("join", METHODS.values(), ids=METHODS)
def test_joined_p_values_are_valid(join: Join) -> None:
    """Of independent p-values, at most the rate is below it, but for chance."""
    first, second = np.random.default_rng(1).uniform(size=(2, 100_000))
    for rate in (0.001, 0.01, 0.05, 0.5):
        share = float((join(first, second) <= rate).mean())
        assert share <= rate + 4 * np.sqrt(rate / 100_000)


@pytest.mark.parametrize("second", [lambda first: first, lambda first: 1 - first], ids=["equal", "opposite"])
def test_the_minimum_is_valid_under_dependence(second: Callable[[np.ndarray], np.ndarray]) -> None:
    """The Bonferroni bound needs no independence."""
    first = np.linspace(0.00001, 0.99999, 100_001)
    for rate in (0.01, 0.05, 0.5):
        assert (join_minimum(first, second(first)) <= rate).mean() <= rate + 1e-4


@settings(max_examples=60)
@given(UNIT, UNIT, UNIT)
def test_joined_p_values_are_symmetric_and_monotone(first: float, second: float, third: float) -> None:
    """Joining is symmetric and monotone; Fisher is SciPy's."""
    low, high = sorted((second, third))
    for join in METHODS.values():
        one, other, lower, higher = (
            float(join(np.array([a]), np.array([b]))[0])
            for a, b in ((first, second), (second, first), (first, low), (first, high))
        )
        assert one == pytest.approx(other)
        assert 0 < one <= 1
        assert lower <= higher + 1e-12
    expected = combine_pvalues([first, second], "fisher").pvalue
    assert join_fisher(np.array([first]), np.array([second]))[0] == pytest.approx(expected)


def test_sources_are_split_whole_and_evenly() -> None:
    """No source is on both sides, and the sides have about as many faces."""
    sources = np.repeat(list("abcdefg"), [50, 40, 30, 20, 20, 10, 10])
    calibrates = split_sources(sources)
    assert not set(sources[calibrates]) & set(sources[~calibrates])
    assert 80 <= calibrates.sum() <= 100


def draw_pair(shift: float, count: int, seed: int) -> Pair:
    """Return independent p-values and values; generated ones are `shift` lower."""
    first, second = np.random.default_rng(seed).normal(-shift, 1, (2, count))
    calibration = np.sort(np.random.default_rng(99).normal(size=2000))
    return Pair((1 + np.searchsorted(calibration, first, "right")) / 2001, second)


def test_fusion_of_independent_evidence_helps() -> None:
    """Two weak scores detect more together, with false alarms at the rate on unseen sources."""
    sources = np.repeat(np.arange(20), 150).astype(str)
    names = np.arange(3000).astype(str)
    fusion = fuse("other", draw_pair(0, 3000, 1), (sources, names), {"g": draw_pair(2, 500, 2)}, 1 / 2001)
    rows = {row.name: row for row in fusion.rows}
    assert (fusion.calibrated_sources, fusion.unseen_sources) == (10, 10)
    assert rows["Fisher"].helps
    assert not rows["one-class"].helps
    for row in rows.values():
        assert row.false_alarms.low <= 0.01
    assert rows["Fisher"].flagged > max(rows["one-class"].flagged, rows["other"].flagged)
    assert "other by Fisher" in conclude([fusion])


def test_fusion_with_noise_does_not_help() -> None:
    """A detector that knows nothing adds nothing, and the conclusion says so."""
    sources = np.repeat(np.arange(20), 60).astype(str)
    noise = np.random.default_rng(5).normal(size=500)
    generated = Pair(draw_pair(1.5, 500, 2).p_values, noise)
    fusion = fuse("noise", draw_pair(0, 1200, 1), (sources, np.arange(1200).astype(str)), {"g": generated}, 1 / 2001)
    assert not any(row.helps for row in fusion.rows)
    assert conclude([fusion]).startswith("Fusion does not help")


def test_rates_that_the_halves_cannot_resolve_are_left_out() -> None:
    """With 60 photographs no p-value reaches 1 %, and no share is stated."""
    sources = np.repeat(np.arange(4), 15).astype(str)
    fusion = fuse(
        "other", draw_pair(0, 60, 1), (sources, np.arange(60).astype(str)), {"g": draw_pair(1, 50, 2)}, 1 / 2001
    )
    rows = {row.name: row for row in fusion.rows}
    assert rows["one-class"].false_alarms is not None  # the bundle's calibration is large enough
    assert rows["other"].false_alarms is None
    assert all(row.tpr is None for row in rows.values())
    assert "was not measured" in conclude([fusion])


def test_a_single_source_has_no_unseen_half() -> None:
    """Then fusion is refused."""
    sources = np.full(10, "a")
    with pytest.raises(ValueError, match="two sources"):
        fuse("other", draw_pair(0, 10, 1), (sources, np.arange(10).astype(str)), {"g": draw_pair(1, 5, 2)}, 0.01)
