"""The evaluation's figures against plain definitions."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from training.evaluation.protocol import (
    auc,
    bootstrap_auc,
    control_sources,
    equalise_format,
    false_alarms,
    measure_drift,
)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.integers(-5, 5), min_size=1, max_size=30),
    st.lists(st.integers(-5, 5), min_size=1, max_size=30),
)
def test_auc_is_scikit_learn_s(photographs: list[int], others: list[int]) -> None:
    """Low likelihood is suspicious, ties count half."""
    labels = [0] * len(photographs) + [1] * len(others)
    expected = roc_auc_score(labels, [-value for value in photographs + others])
    assert auc(np.array(photographs, float), np.array(others, float)) == pytest.approx(expected)


def test_bootstrap_widens_when_faces_share_photographs() -> None:
    """Ten faces of one photograph are one draw, not ten."""
    rng = np.random.default_rng(0)
    values = np.repeat(rng.normal(size=12), 10)
    others = rng.normal(-1, 1, 200)
    together = bootstrap_auc(values, np.repeat(np.arange(12).astype(str), 10), others)
    apart = bootstrap_auc(values, np.arange(120).astype(str), others)
    assert together.low < together.value < together.high
    assert together.high - together.low > 1.5 * (apart.high - apart.low)


def test_control_finds_an_odd_source() -> None:
    """A source of photographs that is less likely than the others has a high control AUC."""
    values = np.concatenate([np.zeros(20), np.full(10, -5.0), np.ones(20)])
    sources = np.array(["a"] * 20 + ["odd"] * 10 + ["c"] * 20)
    control = control_sources(values, sources)
    assert control["odd"].value == 1.0
    assert control["c"].value < 0.5


def test_false_alarms_of_the_calibration_s_own_kind_keep_the_promise() -> None:
    """Exchangeable photographs are flagged at about the promised rate, inside the interval."""
    rng = np.random.default_rng(1)
    rate = false_alarms(rng.normal(size=4000), np.sort(rng.normal(size=999)), 0.05)
    assert rate.low < rate.value < rate.high
    assert rate.value == pytest.approx(0.05, abs=0.02)


def test_equalised_crops_lose_what_112_pixels_cannot_hold() -> None:
    """A one-pixel chequerboard becomes grey; a flat crop stays as it is."""
    board = (np.indices((224, 224)).sum(axis=0) % 2 * 255).astype(np.uint8)
    flat = np.full((224, 224), 90, dtype=np.uint8)
    equal = equalise_format(np.stack([np.stack([image] * 3, axis=-1) for image in (board, flat)])).astype(int)
    assert equal[0, 8:-8, 8:-8].std() < 5
    assert np.abs(equal[1] - 90).max() <= 2


def test_equal_engines_do_not_drift() -> None:
    """No difference, perfect rank correlation, no flips; a shuffled engine flips and loses the order."""
    rng = np.random.default_rng(2)
    scores, calibration = rng.normal(size=200), np.sort(rng.normal(size=99))
    same = measure_drift(scores, scores, calibration, calibration)
    assert (same.max_nats, same.rank_correlation, same.flips_at_5_percent) == (0, pytest.approx(1), 0)
    other = measure_drift(scores, rng.permutation(scores), calibration, calibration)
    assert other.rank_correlation < 0.5
    assert other.flips_at_5_percent > 0
