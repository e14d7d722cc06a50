"""The differences between engines."""

import numpy as np
import pytest

from training.evaluation.drift import measure_drift


def test_equal_engines_do_not_drift() -> None:
    """Equal engines have no difference and no flips; shuffled scores have."""
    rng = np.random.default_rng(2)
    scores, calibration = rng.normal(size=200), np.sort(rng.normal(size=99))
    same = measure_drift(scores, scores, calibration, calibration)
    assert (same.max_nats, same.rank_correlation, same.flips_at_5_percent) == (0, pytest.approx(1), 0)
    other = measure_drift(scores, rng.permutation(scores), calibration, calibration)
    assert other.rank_correlation < 0.5
    assert other.flips_at_5_percent > 0
