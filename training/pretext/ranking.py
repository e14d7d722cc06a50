"""The pretext losses of Zou, Yu, Zhan and Ma (2025), section II-A, Eqs. 1 to 6, over all pairs of a batch at once.

Eq. 1 is the target of a pair, Eq. 2 its probability under Thurstone's model, Eq. 3 the fidelity loss of a pair. Eq. 4
is the fidelity loss of the manipulation head, with the probability of Eq. 5. Eq. 6 is the loss of a batch: the mean
over pairs, summed over the tags, plus the mean over faces.

Shape suffixes: M faces of a batch, T tags, P = M(M-1)/2 unordered pairs.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from training.recipes import LossRule, PairRule

ROOT_FLOOR = 1e-8  # added inside each root as in the authors' release; keeps the gradient finite at p = 0


@dataclass(frozen=True, slots=True)
class Losses:
    """The losses of one batch; only `total` has a gradient."""

    total: Tensor
    ranking: Tensor
    manipulation: Tensor


def fidelity_loss(target: Tensor, predicted: Tensor) -> Tensor:
    """Return `1 - sqrt(p q) - sqrt((1-p)(1-q))` elementwise (Eqs. 3 and 4); zero where p = q."""
    any_rank = torch.sqrt(target * predicted + ROOT_FLOOR)
    disagree = torch.sqrt((1 - target) * (1 - predicted) + ROOT_FLOOR)
    return 1 - any_rank - disagree


def rank_pairs(tags_MT: Tensor, tie_target: float) -> Tensor:
    """Return [P, T] targets (Eq. 1): 1 if the first face of a pair has the larger tag, NaN if a face lacks the tag."""
    first, second = pair_indices(tags_MT.shape[0], tags_MT.device)
    larger, smaller = tags_MT[first], tags_MT[second]
    target = torch.where(larger == smaller, tie_target, (larger > smaller).to(tags_MT.dtype))
    return torch.where(larger.isnan() | smaller.isnan(), torch.nan, target)


def pair_indices(count: int, device: torch.device | None = None) -> tuple[Tensor, Tensor]:
    """Return the first and second index of each of the `count * (count - 1) / 2` unordered pairs."""
    first, second = torch.triu_indices(count, count, offset=1, device=device)
    return first, second


def exif_ranking_loss(scale_values_MT: Tensor, tags_MT: Tensor, rule: PairRule) -> Tensor:
    """Return [T] mean fidelity losses over the pairs that have the tag (Eqs. 1 to 3, 6); zero if no pair has it.

    Args:
        scale_values_MT: outputs of the ranking heads, g in Eq. 2.
        tags_MT: the tags, NaN where absent.
        rule: Eqs. 1 and 2 as in the paper or in the release.
    """
    targets_PT = rank_pairs(tags_MT, rule.tie_target)
    first, second = pair_indices(scale_values_MT.shape[0], scale_values_MT.device)
    predicted_PT = torch.special.ndtr((scale_values_MT[first] - scale_values_MT[second]) * rule.thurstone_scale)
    known_PT = ~targets_PT.isnan()
    # NaN targets are replaced before the loss: afterwards, NaN times zero would make the gradient NaN.
    loss_PT = fidelity_loss(torch.where(known_PT, targets_PT, 0.5), predicted_PT) * known_PT
    return loss_PT.sum(dim=0) / known_PT.sum(dim=0).clamp(min=1)


def manipulation_loss(logits_M: Tensor, manipulated_M: Tensor) -> Tensor:
    """Return the manipulation head's mean fidelity loss (Eqs. 4 and 5); `manipulated_M` is 1 for manipulated faces."""
    return fidelity_loss(manipulated_M, torch.sigmoid(logits_M)).mean()


def combine_losses(outputs: tuple[Tensor, Tensor], tags_MT: Tensor, manipulated_M: Tensor, rule: LossRule) -> Losses:
    """Return the batch's losses (Eq. 6).

    Args:
        outputs: EXIF scale values [M, T] and manipulation logits [M] of the network.
        tags_MT: NaN where absent.
        manipulated_M: 1 for manipulated faces, 0 for untouched faces.
        rule: which faces are ranked, and the weights of the tasks.
    """
    scale_values_MT, logits_M = outputs
    ranked_MT = tags_MT if rule.rank_manipulated else torch.where(manipulated_M[:, None] > 0, torch.nan, tags_MT)
    ranking = exif_ranking_loss(scale_values_MT, ranked_MT, rule.pairs)
    manipulation = manipulation_loss(logits_M, manipulated_M)
    total = rule.ranking_weight * ranking.mean() + rule.manipulation_weight * manipulation
    return Losses(total, ranking.detach(), manipulation.detach())
