"""Thresholds: the same decisions as p-values, the coverage of intervals, and unsupported rates."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scorer.decide import flagged_rank, p_values
from scorer.fitting.calibrate import (
    RATES,
    Threshold,
    describe_calibration,
    measure_threshold,
    photographs_needed,
    score_held_out,
)
from scorer.mixture import GaussianMixture

SAMPLES = 400


def name_photos(count: int, faces: int = 1) -> np.ndarray:
    """Return photograph names for `count` faces, with `faces` on each photograph."""
    return np.array([f"p{index // faces}" for index in range(count)])


@settings(deadline=None, max_examples=200)
@given(st.integers(1, 4000), st.floats(0.0005, 0.2))
def test_rank_agrees_with_the_p_value(count: int, rate: float) -> None:
    """Exactly the faces below the held-out face of that rank have a p-value of at most the rate."""
    held_out = np.arange(count, dtype=float)
    rank = flagged_rank(count, rate)
    between = np.arange(-0.5, count)
    flagged = p_values(between, held_out) <= rate
    np.testing.assert_array_equal(flagged, between < (held_out[rank - 1] if rank else -np.inf))


@pytest.mark.parametrize("count", [19, 99, 199, 999, 1999])
@pytest.mark.parametrize("rate", RATES)
def test_rank_at_round_numbers(count: int, rate: float) -> None:
    """If rate times n + 1 is a whole number, rounding does not change the rank."""
    assert flagged_rank(count, rate) == round(rate * (count + 1) - 0.5 + 1e-9)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.05, 0.01]), st.integers(400, 1500))
def test_thresholds_make_the_p_values_decisions(seed: int, rate: float, count: int) -> None:
    """The threshold flags exactly the faces that the p-value flags, including ties."""
    rng = np.random.default_rng(seed)
    values = np.round(rng.normal(size=count), 2)
    found = measure_threshold(values, name_photos(count), rate)
    assert isinstance(found, Threshold)
    faces = np.round(rng.normal(-1, 2, 500), 2)
    np.testing.assert_array_equal(faces < found.nats, p_values(faces, np.sort(values)) <= rate)
    assert found.nats_low <= found.nats <= found.nats_high
    assert found.rate_low < rate < found.rate_high


@pytest.mark.parametrize(("rate", "count"), [(0.05, 150), (0.05, 900), (0.01, 700)])
@pytest.mark.parametrize("faces", [1, 3])
def test_coverage_holds_on_exchangeable_draws(rate: float, count: int, faces: int) -> None:
    """On uniform samples the mean rate is at most the requested rate, and 95 % intervals cover in 95 % of the samples.

    With three faces a photograph, all three are equal, which is the strongest dependence.
    """
    rng = np.random.default_rng(int(count / rate) + faces)
    photos = name_photos(count * faces, faces)
    found = [measure_threshold(np.repeat(rng.random(count), faces), photos, rate) for _ in range(SAMPLES)]
    kept = [threshold for threshold in found if isinstance(threshold, Threshold)]
    assert len(kept) > 0.97 * SAMPLES
    # For uniform values, a threshold equals its false-alarm rate.
    rates = np.array([threshold.nats for threshold in kept])
    assert rates.mean() < rate + 3 * rates.std() / np.sqrt(len(kept)) + (faces > 1) / count
    inside = [threshold.nats_low <= rate <= threshold.nats_high for threshold in kept]
    covered = [threshold.rate_low <= threshold.nats <= threshold.rate_high for threshold in kept]
    tolerance = 3 * np.sqrt(0.05 * 0.95 / SAMPLES)
    assert np.mean(inside) > 0.95 - tolerance
    assert np.mean(covered) > 0.95 - tolerance


def test_repeated_faces_widen_the_interval() -> None:
    """Five copies of each face give the same interval as one."""
    values = np.random.default_rng(0).random(600)
    single = measure_threshold(values, name_photos(600), 0.05)
    copies = measure_threshold(np.repeat(values, 5), name_photos(3000, 5), 0.05)
    apart = measure_threshold(np.repeat(values, 5), name_photos(3000), 0.05)
    assert isinstance(single, Threshold)
    assert isinstance(copies, Threshold)
    assert isinstance(apart, Threshold)
    width = single.rate_high - single.rate_low
    assert copies.rate_high - copies.rate_low == pytest.approx(width, rel=0.1)
    assert apart.rate_high - apart.rate_low < 0.6 * width


@pytest.mark.parametrize(("rate", "needed"), [(0.05, 72), (0.01, 368), (0.001, 3688)])
def test_a_rate_that_n_cannot_support_is_refused(rate: float, needed: int) -> None:
    """One photograph too few gives a refusal with both numbers; enough photographs give a threshold."""
    assert photographs_needed(rate) == needed
    values = np.random.default_rng(1).random(needed)
    refusal = measure_threshold(values[1:], name_photos(needed - 1), rate)
    assert isinstance(refusal, str)
    assert f"n = {needed - 1} cannot support" in refusal
    assert f"at least {needed} photographs are needed" in refusal
    assert isinstance(measure_threshold(values, name_photos(needed), rate), Threshold)


def test_many_faces_of_few_photographs_support_no_rate() -> None:
    """Photographs count, not faces: ten photographs of 400 faces do not support 5 %."""
    refusal = measure_threshold(np.random.default_rng(2).random(4000), name_photos(4000, 400), 0.05)
    assert isinstance(refusal, str)
    assert "n = 10 cannot support 5 %" in refusal


def test_the_report_separates_thresholds_from_refusals() -> None:
    """400 photographs support 5 % and 1 %, not 0.1 %, and the assumption is stated."""
    report = describe_calibration(np.random.default_rng(3).normal(size=400), name_photos(400))
    assert list(report["thresholds"]) == ["0.05", "0.01"]
    assert list(report["refused"]) == ["0.001"]
    assert "exchangeable" in report["assumption"]


def test_an_empty_role_is_an_error() -> None:
    """A calibration without faces is an error, not an empty array that flags nothing."""
    mixture = GaussianMixture(np.ones(1), np.zeros((1, 4)), np.ones((1, 4)))
    with pytest.raises(ValueError, match="the role calibrate is empty"):
        score_held_out(mixture, np.zeros((0, 4), np.float32))
