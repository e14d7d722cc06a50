"""p-values and policies."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from scorer.decide import (
    Calibration,
    CalibrationSize,
    Policy,
    decide_face,
    p_values,
    photographs_needed,
    resolve_policy,
    supported_rate,
)
from scorer.errors import PolicyError
from scorer.messages import CalibratedBy, Decision
from scorer.strata import Stratum

LIKELIHOODS = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=60)

SMALL = CalibrationSize(faces=103, photographs=78)


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


@given(
    st.lists(st.tuples(st.floats(-1e6, 1e6) | st.just(math.nan), st.sampled_from(Stratum)), max_size=30),
    st.dictionaries(st.sampled_from(Stratum), LIKELIHOODS),
    LIKELIHOODS,
)
def test_a_face_is_compared_with_its_stratum(
    faces: list[tuple[float, Stratum]], strata: dict[Stratum, list[float]], pooled: list[float]
) -> None:
    """Each face gets the p-value that it has alone in its stratum, or among all photographs without that stratum."""
    calibration = Calibration(np.sort(pooled), {name: np.sort(values) for name, values in strata.items()})
    found = calibration.p_values(np.array([value for value, _ in faces]), [stratum for _, stratum in faces])
    for (value, stratum), (p_value, by) in zip(faces, found, strict=True):
        expected = p_values(np.array([value]), np.sort(strata.get(stratum, pooled)))[0]
        np.testing.assert_equal(p_value, expected)
        assert by is (CalibratedBy.STRATUM if stratum in strata else CalibratedBy.POOLED)


def test_strata_keep_the_rate_where_one_threshold_does_not() -> None:
    """Faces of a stratum that is less likely are flagged at the stated rate, not more often."""
    rng = np.random.default_rng(5)
    small = [Stratum.SMALL_LOW_QUALITY] * 4000
    held_out = {Stratum.SMALL_LOW_QUALITY: np.sort(rng.normal(-1, 1, 2000))}
    faces, pooled = rng.normal(-1, 1, 4000), np.sort(rng.normal(0, 1, 2000))
    one, by_stratum = (
        np.mean([p_value <= 0.05 for p_value, _ in Calibration(pooled, strata).p_values(faces, small)])
        for strata in ({}, held_out)
    )
    assert one > 0.2
    assert by_stratum == pytest.approx(0.05, abs=0.015)


@given(st.integers(1, 100_000))
def test_a_supported_rate_is_the_finest_of_one_digit(photographs: int) -> None:
    """A calibration supports the rate that is named for it, and not the next finer one of one digit."""
    rate = supported_rate(photographs)
    assert photographs >= photographs_needed(rate)
    digits = -math.floor(math.log10(rate))
    finer = (round(rate * 10**digits) - 1) / 10**digits or 0.9 * rate
    assert photographs < photographs_needed(finer)


@pytest.mark.parametrize(("photographs", "rate"), [(71, 0.06), (72, 0.05), (78, 0.05), (367, 0.02), (368, 0.01)])
def test_the_rule_gives_the_rates_of_the_card(photographs: int, rate: float) -> None:
    """72 photographs support 5 %, 368 support 1 %: the numbers that a calibration's report states."""
    assert supported_rate(photographs) == rate


def test_a_default_that_the_calibration_does_not_support_is_raised_in_a_sentence() -> None:
    """A default rate is replaced by the lowest supported one, all else stays, and a sentence states why."""
    policy, note = resolve_policy(Policy(min_face_px=48), SMALL)
    assert policy == Policy(min_face_px=48, flag_false_alarm_rate=0.05)
    assert note == (
        "policy default: the default flag rate of 1 % needs a calibration on 368 photographs, and this bundle's is on "
        "78: faces are flagged at 5 %"
    )
    assert resolve_policy(policy, SMALL) == (policy, "")
    _, note = resolve_policy(Policy(), SMALL._replace(stratum=Stratum.LARGE))
    assert "and this bundle's is on 78 of the stratum large: faces are flagged at 5 %" in note
    assert resolve_policy(Policy(), CalibrationSize(368, 368)) == (Policy(), "")


def test_a_default_never_exceeds_the_review_rate() -> None:
    """If the supported rate of one digit is above the review rate, the review rate is used if it is supported."""
    policy, _ = resolve_policy(Policy(review_false_alarm_rate=0.048), SMALL)
    assert policy.flag_false_alarm_rate == 0.048
    with pytest.raises(PolicyError, match=r"set flag_false_alarm_rate to 0\.06 or more"):
        resolve_policy(Policy(), CalibrationSize(200, 71))


@pytest.mark.parametrize(("rate", "note"), [(0.01, "368 photographs"), (0.04, "91 photographs"), (0.05, "")])
def test_a_rate_that_was_set_is_never_changed(rate: float, note: str) -> None:
    """A rate that the calibration resolves is kept, with a sentence where it is not supported."""
    policy = Policy(flag_false_alarm_rate=rate)
    kept, sentence = resolve_policy(policy, SMALL)
    assert kept == policy
    assert note in sentence
    assert bool(sentence) == bool(note)


def test_a_rate_that_can_flag_nothing_is_refused() -> None:
    """It is below 1/(n+1); the message names a rate that the calibration supports."""
    with pytest.raises(PolicyError, match=r"this bundle's is on 78: set flag_false_alarm_rate to 0\.05 or more"):
        resolve_policy(Policy(flag_false_alarm_rate=0.009), SMALL)
    everything = Policy(flag_false_alarm_rate=1, review_false_alarm_rate=1)
    assert resolve_policy(everything, CalibrationSize(1, 1)) == (everything, "")


@pytest.mark.parametrize("rates", [(0.0, 0.05), (0.1, 0.05), (-0.1, 0.05), (0.01, 1.5)])
def test_senseless_rates_are_refused(rates: tuple[float, float]) -> None:
    """Rates must be probabilities, the flag rate positive and not above the review rate."""
    with pytest.raises(ValidationError):
        Policy(flag_false_alarm_rate=rates[0], review_false_alarm_rate=rates[1])
