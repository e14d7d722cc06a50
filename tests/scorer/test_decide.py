"""p-values and policies."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from scorer.decide import Policy, PolicyError, check_policy, decide_face, p_values
from scorer.messages import Decision

LIKELIHOODS = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=60)


@given(LIKELIHOODS, st.floats(-1e6, 1e6))
def test_p_value_counts_photographs_at_most_this_likely(calibration: list[float], value: float) -> None:
    """The p-value is (1 + how many are at most this likely) / (n + 1), so never below 1/(n+1)."""
    expected = (1 + sum(photograph <= value for photograph in calibration)) / (len(calibration) + 1)
    assert p_values(np.array([value]), np.sort(calibration))[0] == pytest.approx(expected)


@given(LIKELIHOODS, st.floats(-1e6, 1e6), st.floats(-1e6, 1e6))
def test_p_value_grows_with_likelihood(calibration: list[float], one: float, other: float) -> None:
    """A likelier face never gets a smaller p-value."""
    low, high = p_values(np.array(sorted((one, other))), np.sort(calibration))
    assert low <= high


def test_p_values_of_photographs_keep_the_false_alarm_rate() -> None:
    """Photographs like those held out are flagged no more often than the policy states."""
    rng = np.random.default_rng(11)
    rates = [
        np.mean(p_values(rng.normal(size=200), np.sort(rng.normal(size=199))) <= Policy().review_false_alarm_rate)
        for _ in range(200)
    ]
    assert np.mean(rates) == pytest.approx(0.05, abs=0.005)


@pytest.mark.parametrize("value", [None, float("nan"), float("inf"), float("-inf")])
def test_a_face_without_a_finite_p_value_never_passes(value: float | None) -> None:
    """What could not be scored goes to review."""
    assert decide_face(value, Policy()) is Decision.REVIEW


@pytest.mark.parametrize(
    ("p_value", "decision"),
    [(0.0, "flag"), (0.01, "flag"), (0.011, "review"), (0.05, "review"), (0.051, "pass"), (1.0, "pass")],
)
def test_decision_follows_the_policy_rates(p_value: float, decision: str) -> None:
    """A rate is met with equality: p = rate is still flagged or reviewed."""
    assert decide_face(p_value, Policy()) == decision


def test_nan_likelihood_stays_nan() -> None:
    """A likelihood that is not finite has no p-value at all."""
    assert np.isnan(p_values(np.array([np.nan, -np.inf, np.inf]), np.arange(10.0))).all()


def test_policy_below_the_calibration_is_refused() -> None:
    """98 photographs cannot promise one per cent, 99 can."""
    with pytest.raises(PolicyError, match="98 held-out photographs"):
        check_policy(Policy(), 98)
    check_policy(Policy(), 99)


@pytest.mark.parametrize("rates", [(0.0, 0.05), (0.1, 0.05), (-0.1, 0.05), (0.01, 1.5)])
def test_senseless_rates_are_refused(rates: tuple[float, float]) -> None:
    """Rates must be probabilities, the flag rate positive and not above the review rate."""
    with pytest.raises(ValidationError):
        Policy(flag_false_alarm_rate=rates[0], review_false_alarm_rate=rates[1])
