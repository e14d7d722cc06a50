"""The optimiser of a recipe, and its learning rate as a function of the step alone."""

import math

import torch
from torch import nn

from training.recipes import OptimiserRule

# Layers that no published weights fill: the heads, and what makes 768 features of a trunk.
NEW_LAYERS = ("centre.", "heads.", "extractor.widen.", "extractor.trunk.fc.")


def make_optimiser(network: nn.Module, rule: OptimiserRule) -> torch.optim.Adam:
    """Return AdamW or plain Adam over what is trained, with the rule's two rates."""
    named = [(name, value) for name, value in network.named_parameters() if value.requires_grad]
    trunk = [value for name, value in named if not name.startswith(NEW_LAYERS)]
    new = [value for name, value in named if name.startswith(NEW_LAYERS)]
    groups = [
        {"params": values, "lr": rate, "highest_rate": rate}
        for values, rate in ((trunk, rule.backbone_rate), (new, rule.head_rate))
        if values
    ]
    kind = torch.optim.AdamW if rule.decay == "decoupled" else torch.optim.Adam
    # Fused: one kernel an array instead of ten, each of which would wait for all threads on a busy machine.
    return kind(groups, betas=rule.betas, eps=rule.epsilon, weight_decay=rule.weight_decay, fused=True)


def cosine_share(rule: OptimiserRule, step: int, steps_per_epoch: int, epochs: int) -> float:
    """Return where in 0..1 between floor and highest rate the cosine stands before step `step` of the training.

    A cosine shorter than the training rises again, as torch's `CosineAnnealingLR` does.
    """
    at = step / steps_per_epoch if rule.stepwise else step // steps_per_epoch
    return (1 + math.cos(math.pi * at / (rule.cosine_epochs or epochs))) / 2


def set_rates(optimiser: torch.optim.Optimizer, rule: OptimiserRule, share: float) -> None:
    """Set the rates to `share` of the way from the floor to each group's highest rate."""
    for group in optimiser.param_groups:
        group["lr"] = rule.rate_floor + (group["highest_rate"] - rule.rate_floor) * share
