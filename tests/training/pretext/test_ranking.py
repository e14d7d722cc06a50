"""The losses compared with the paper's equations in double precision."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from training.pretext.ranking import ROOT_FLOOR, combine_losses, exif_ranking_loss, fidelity_loss, manipulation_loss
from training.recipes import LossRule, PairRule, paper

PAPER, RELEASED = PairRule(1 / math.sqrt(2), 1.0), PairRule(2.0, 0.5)


def transcribe_fidelity(target: float, predicted: float) -> float:
    """Return Eq. 3 with the floor inside each root."""
    return 1 - math.sqrt(target * predicted + ROOT_FLOOR) - math.sqrt((1 - target) * (1 - predicted) + ROOT_FLOOR)


def transcribe_ranking(scores: np.ndarray, tags: np.ndarray, rule: PairRule, *, ordered: bool) -> list[float]:
    """Return the ranking part of Eq. 6 for each tag, pair by pair, in both orders or one."""
    losses = []
    for tag in range(tags.shape[1]):
        total, pairs = 0.0, 0
        for i in range(len(tags)):
            for j in range(0 if ordered else i + 1, len(tags)):
                x, y = tags[i, tag], tags[j, tag]
                if i == j or np.isnan(x) or np.isnan(y):
                    continue
                target = rule.tie_target if x == y else float(x > y)
                z = (scores[i, tag] - scores[j, tag]) * rule.thurstone_scale
                total += transcribe_fidelity(target, 0.5 * (1 + math.erf(z / math.sqrt(2))))
                pairs += 1
        losses.append(total / max(pairs, 1))
    return losses


@settings(max_examples=40)
@given(
    seed=st.integers(0, 2**32 - 1),
    count=st.integers(2, 9),
    rule=st.sampled_from([(PAPER, True), (RELEASED, True), (RELEASED, False)]),
)
def test_ranking_loss_equals_the_transcription(seed: int, count: int, rule: tuple[PairRule, bool]) -> None:
    """All pairs at once give the equations' result, with equal and missing tags; one order is the same."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(0, 2, (count, 4))
    tags = rng.integers(0, 4, (count, 4)).astype(float)
    tags[rng.random((count, 4)) < 0.3] = np.nan
    pairs, ordered = rule
    loss = exif_ranking_loss(torch.tensor(scores), torch.tensor(tags), pairs)
    np.testing.assert_allclose(loss.numpy(), transcribe_ranking(scores, tags, pairs, ordered=ordered), atol=1e-12)


def transcribe_paper(
    g: list[list[float]], tags: list[list[float]], logits: list[float], manipulated: list[float]
) -> float:
    """Return Eq. 6 by Eqs. 1 to 5 as they are printed."""

    def fidelity(p: float, q: float) -> float:
        return 1 - math.sqrt(p * q) - math.sqrt((1 - p) * (1 - q))

    pairs = [(x, y) for x in range(len(tags)) for y in range(len(tags)) if x != y]
    ranking = 0.0
    for x, y in pairs:
        for i in range(4):
            p = 1.0 if tags[x][i] >= tags[y][i] else 0.0  # Eq. 1
            thurstone = 0.5 * (1 + math.erf((g[x][i] - g[y][i]) / math.sqrt(2) / math.sqrt(2)))  # Eq. 2
            ranking += fidelity(p, thurstone)  # Eq. 3
    manipulation = 0.0
    for logit, p in zip(logits, manipulated, strict=True):
        manipulation += fidelity(p, 1 / (1 + math.exp(-logit)))  # Eqs. 4 and 5
    return ranking / len(pairs) + manipulation / len(logits)


@settings(max_examples=40)
@given(seed=st.integers(0, 2**32 - 1), count=st.integers(2, 8))
def test_the_paper_s_loss_is_eq_6(seed: int, count: int) -> None:
    """The total is the sum of five equal tasks; the floor adds at most 1e-3."""
    rng = np.random.default_rng(seed)
    g, tags = rng.normal(0, 2, (count, 4)), rng.integers(0, 3, (count, 4)).astype(float)
    logits, manipulated = rng.normal(0, 2, count), (rng.random(count) < 0.5).astype(float)
    # The crops of a face are adjacent, and each has the labels of one task.
    nan = np.full(count, np.nan)
    losses = combine_losses(
        (torch.tensor(np.repeat(g, 2, axis=0)), torch.tensor(np.repeat(logits, 2))),
        torch.tensor(np.stack([tags, np.full_like(tags, np.nan)], axis=1).reshape(-1, 4)),
        torch.tensor(np.stack([nan, manipulated], axis=1).ravel()),
        paper().losses,
    )
    expected = transcribe_paper(g.tolist(), tags.tolist(), logits.tolist(), manipulated.tolist())
    assert losses.total.item() == pytest.approx(expected, abs=10 * math.sqrt(ROOT_FLOOR))


def test_the_order_of_a_batch_does_not_count() -> None:
    """The reversed batch has the same gradients, also with equal tags."""
    scores = torch.tensor([[3.0], [1.0], [-2.0]], dtype=torch.float64, requires_grad=True)
    tags = torch.ones(3, 1, dtype=torch.float64)
    (there,) = torch.autograd.grad(exif_ranking_loss(scores, tags, PAPER).sum(), scores)
    (back,) = torch.autograd.grad(exif_ranking_loss(scores.flip(0), tags, PAPER).sum(), scores)
    torch.testing.assert_close(there, back)
    assert there[0] > 0 > there[2]


@pytest.mark.parametrize("gap", [0.0, 1e-3, 1.0, 40.0, -40.0])
@pytest.mark.parametrize("target", [0.0, 0.5, 1.0])
def test_gradients_are_finite_at_certain_probabilities(gap: float, target: float) -> None:
    """A probability of exactly 0 or 1 gives a finite loss and a finite gradient."""
    difference = torch.tensor([gap], requires_grad=True)
    loss = fidelity_loss(torch.tensor([target]), torch.special.ndtr(difference)).sum()
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(difference.grad).all()


@pytest.mark.parametrize("rule", [LossRule(PAPER), LossRule(RELEASED, ranking_weight=0.25)])
def test_gradient_of_the_whole_loss_agrees_with_finite_differences(rule: LossRule) -> None:
    """The gradient of Eq. 6 is the numerical one, with equal and missing tags."""
    generator = torch.Generator().manual_seed(3)
    scores = torch.randn(6, 4, dtype=torch.float64, generator=generator, requires_grad=True)
    logits = torch.randn(6, dtype=torch.float64, generator=generator, requires_grad=True)
    tags = torch.tensor(np.random.default_rng(3).integers(0, 3, (6, 4)).astype(float))
    tags[2, 1] = torch.nan
    manipulated = torch.tensor([0.0, 1, torch.nan, 0, 1, 0], dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda *outputs: combine_losses(outputs, tags, manipulated, rule).total, (scores, logits)
    )


@pytest.mark.parametrize("logit", [0.0, 20.0, -20.0, 200.0, -200.0])
def test_manipulation_loss_is_finite_for_extreme_logits(logit: float) -> None:
    """The loss of Eqs. 4 and 5 and its gradient are finite for extreme logits, right or wrong."""
    logits = torch.tensor([logit, logit], requires_grad=True)
    loss = manipulation_loss(logits, torch.tensor([0.0, 1.0]))
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(logits.grad).all()


def test_a_crop_counts_for_the_tasks_that_it_has_labels_of() -> None:
    """Unlabelled crops do not count, and weights weigh."""
    nan = math.nan
    tags = torch.tensor([[1.0] * 4, [2.0] * 4, [nan] * 4])
    scores, logits = torch.randn(3, 4), torch.tensor([-3.0, -3.0, 3.0])
    manipulated = torch.tensor([nan, 0.0, 1.0])
    losses = combine_losses((scores, logits), tags, manipulated, LossRule(PAPER, 0.5, manipulation_weight=2.0))
    expected = exif_ranking_loss(scores[:2], tags[:2], PAPER)
    torch.testing.assert_close(losses.ranking, expected)
    classified = manipulation_loss(logits[1:], manipulated[1:])
    torch.testing.assert_close(losses.manipulation, classified)
    torch.testing.assert_close(losses.total, expected.sum() / 2 + 2 * classified)


def test_a_task_without_labels_has_no_loss() -> None:
    """Without labels losses and gradients are zero."""
    outputs = (torch.randn(3, 4, requires_grad=True), torch.randn(3, requires_grad=True))
    losses = combine_losses(outputs, torch.full((3, 4), math.nan), torch.full((3,), math.nan), paper().losses)
    losses.total.backward()
    assert losses.total == 0
    assert all(not output.grad.any() for output in outputs)
