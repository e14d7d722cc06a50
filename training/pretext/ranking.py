"""The pretext losses of Zou, Yu, Zhan and Ma (2025), section II-A, Eqs. 1 to 6, over all pairs of a batch at once.

Eq. 1 is the target of a pair, Eq. 2 its probability under Thurstone's model, Eq. 3 the fidelity loss of a pair. Eq. 4
is the fidelity loss of the manipulation head, with the probability of Eq. 5. Eq. 6 is the loss of a batch: the mean
over pairs, summed over the tags, plus the mean over faces.

"All possible image pairs" of Eq. 6 are read as ordered pairs of different faces, because Eq. 1 labels an ordered pair.
The loss then does not depend on the order of a batch: two equal tags have the target 1 in both orders, so their loss is
lowest at equal scale values. With unordered pairs, the first face of a batch would count as the larger one. For
different tags, and for the release's tie target of 0.5, both orders have the same loss, so the mean over ordered pairs
is the release's mean over unordered pairs.

Shape suffixes: M crops of a batch, T tags.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from training.recipes import LossRule, PairRule

ROOT_FLOOR = 1e-8  # added inside each root as in the authors' release; keeps the gradient finite at p = 0


@dataclass(frozen=True, slots=True)
class Losses:
    """The losses of one batch; only `total` has a gradient. `classes` are those of the classifiers, by task."""

    total: Tensor
    ranking: Tensor
    manipulation: Tensor
    classes: dict[str, Tensor] = field(default_factory=dict)


def fidelity_loss(target: Tensor, predicted: Tensor) -> Tensor:
    """Return `1 - sqrt(p q) - sqrt((1-p)(1-q))` elementwise (Eqs. 3 and 4); zero where p = q."""
    any_rank = torch.sqrt(target * predicted + ROOT_FLOOR)
    disagree = torch.sqrt((1 - target) * (1 - predicted) + ROOT_FLOOR)
    return 1 - any_rank - disagree


def rank_pairs(tags_MT: Tensor, tie_target: float) -> Tensor:
    """Return [M, M, T] targets (Eq. 1): 1 if the first face of a pair has the larger tag.

    NaN if a face lacks the tag, and for a face with itself.
    """
    first, second = tags_MT[:, None], tags_MT[None]
    target = torch.where(first == second, tie_target, (first > second).to(tags_MT.dtype))
    itself = torch.eye(len(tags_MT), dtype=torch.bool, device=tags_MT.device)[..., None]
    return torch.where(first.isnan() | second.isnan() | itself, torch.nan, target)


def exif_ranking_loss(scale_values_MT: Tensor, tags_MT: Tensor, rule: PairRule) -> Tensor:
    """Return [T] mean fidelity losses over the pairs that have the tag (Eqs. 1 to 3, 6); zero if no pair has it.

    Args:
        scale_values_MT: outputs of the ranking heads, g in Eq. 2.
        tags_MT: the tags, NaN where absent.
        rule: Eqs. 1 and 2 as in the paper or in the release.
    """
    targets_MMT = rank_pairs(tags_MT, rule.tie_target)
    differences_MMT = scale_values_MT[:, None] - scale_values_MT[None]
    predicted_MMT = torch.special.ndtr(differences_MMT * rule.thurstone_scale)
    return mean_of_known(targets_MMT.flatten(0, 1), predicted_MMT.flatten(0, 1))


def manipulation_loss(logits_M: Tensor, manipulated_M: Tensor) -> Tensor:
    """Return the manipulation head's mean fidelity loss (Eqs. 4 and 5) over the crops that have a label, else zero.

    `manipulated_M` is 1 for manipulated faces, 0 for untouched ones, NaN for crops of another task.
    """
    return mean_of_known(manipulated_M, torch.sigmoid(logits_M))


def mean_of_known(targets: Tensor, predicted: Tensor) -> Tensor:
    """Return the mean fidelity loss over the first axis, without NaN targets; zero if all are NaN."""
    known = ~targets.isnan()
    # NaN targets are replaced before the loss: afterwards, NaN times zero would make the gradient NaN.
    losses = fidelity_loss(torch.where(known, targets, 0.5), predicted) * known
    return losses.sum(dim=0) / known.sum(dim=0).clamp(min=1)


def combine_losses(outputs: tuple[Tensor, Tensor], tags_MT: Tensor, manipulated_M: Tensor, rule: LossRule) -> Losses:
    """Return the batch's losses (Eq. 6).

    Args:
        outputs: EXIF scale values [M, T] and manipulation logits [M] of the network.
        tags_MT: NaN where absent, and for crops that are not ranked.
        manipulated_M: 1 for manipulated faces, 0 for untouched ones, NaN for crops without this task.
        rule: the pairs' targets and the weights of the tasks.
    """
    scale_values_MT, logits_M = outputs
    ranking = exif_ranking_loss(scale_values_MT, tags_MT, rule.pairs)
    manipulation = manipulation_loss(logits_M, manipulated_M)
    total = rule.ranking_weight * ranking.sum() + rule.manipulation_weight * manipulation
    return Losses(total, ranking.detach(), manipulation.detach())
