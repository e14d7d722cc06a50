"""The paper's protocol compared with a direct implementation."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from training.evaluation import protocol
from training.evaluation.protocol import compare_generators, judge_generator, pick_threshold

NATS = st.lists(st.integers(-6, 6).map(float), min_size=1, max_size=40)


def transcribe(fitted: list[float], real: list[float], generated: list[float]) -> tuple[float, float, float]:
    """Return accuracy, AP and AUC as the release computes them, face by face."""
    threshold = sorted(fitted)[int(len(fitted) * 0.05)]
    labels = [1] * len(real) + [0] * len(generated)
    scores = real + generated
    right = sum((score >= threshold) == (label == 1) for score, label in zip(scores, labels, strict=True))
    return right / len(labels), average_precision_score(labels, scores), roc_auc_score(labels, scores)


@settings(max_examples=200)
@given(NATS, NATS, NATS)
def test_figures_are_the_release_s(fitted: list[float], real: list[float], generated: list[float]) -> None:
    """Threshold, accuracy, average precision and AUC equal the release's, including ties."""
    outcome = judge_generator(np.array(real), np.array(generated), pick_threshold(np.array(fitted)))
    expected = transcribe(fitted, real, generated)
    assert (outcome.accuracy, outcome.average_precision, outcome.auc) == pytest.approx(expected)


def test_a_photograph_on_the_threshold_is_a_photograph() -> None:
    """A face at exactly the 5th percentile is a photograph."""
    assert pick_threshold(np.arange(100.0)) == 5.0
    assert judge_generator(np.array([5.0]), np.array([4.9]), 5.0).accuracy == 1


@pytest.mark.parametrize(
    ("photographs", "generated", "expected"), [(50, 30, 30), (30, 50, 30), (90, 80, 60)], ids=["few", "fewer", "most"]
)
def test_classes_are_balanced(photographs: int, generated: int, expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many generated faces as photographs are compared, at most the protocol's largest N."""
    monkeypatch.setattr(protocol, "MAX_FACES", 60)
    rng = np.random.default_rng(0)
    result = compare_generators(rng.normal(size=40), rng.normal(size=photographs), {"g": rng.normal(size=generated)})
    assert result.generators["g"].count == expected


def test_generators_have_equal_weights_and_results_repeat() -> None:
    """The average is over generators, not faces, and the same call gives the same result."""
    rng = np.random.default_rng(1)
    generated = {"many": rng.normal(-3, 1, 200), "few": rng.normal(0, 1, 20)}
    arguments = rng.normal(size=100), rng.normal(size=300), generated
    result = compare_generators(*arguments)
    assert result == compare_generators(*arguments)
    assert result.average.accuracy == np.mean([row.accuracy for row in result.generators.values()])
    assert result.average.count == 220
