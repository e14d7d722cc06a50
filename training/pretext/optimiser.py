"""The optimiser of a recipe, and its learning rate as a function of the step."""

import math

import torch
from torch import nn

from training.recipes import OptimiserRule

# Layers without published weights: the heads, and the layers that compute the features.
NEW_LAYERS = ("centre.", "heads.", "classifiers.", "extractor.widen.", "extractor.trunk.fc.")


def make_optimiser(network: nn.Module, rule: OptimiserRule) -> torch.optim.Adam:
    """Return AdamW or Adam for the parameters that are not frozen, with the rule's two rates."""
    named = [(name, value) for name, value in network.named_parameters() if value.requires_grad]
    trunk = [value for name, value in named if not name.startswith(NEW_LAYERS)]
    new = [value for name, value in named if name.startswith(NEW_LAYERS)]
    groups = [
        {"params": values, "lr": rate, "highest_rate": rate}
        for values, rate in ((trunk, rule.backbone_rate), (new, rule.head_rate))
        if values
    ]
    kind = torch.optim.AdamW if rule.decay == "decoupled" else torch.optim.Adam
    # Fused: one kernel for each array instead of ten, each of which synchronises all threads.
    return kind(groups, betas=rule.betas, eps=rule.epsilon, weight_decay=rule.weight_decay, fused=True)


def rate_factor(rule: OptimiserRule, step: int, steps_per_epoch: int, epochs: int) -> float:
    """Return the schedule's factor before step `step`: 0 is the lowest rate, 1 the highest.

    The factor is a cosine, times a linear rise in the first `warmup_steps` steps. A period shorter than
    the training rises again, as torch's `CosineAnnealingLR` does.
    """
    at = step / steps_per_epoch if rule.stepwise else step // steps_per_epoch
    rise = min(1.0, (step + 1) / rule.warmup_steps) if rule.warmup_steps else 1.0
    return rise * (1 + math.cos(math.pi * at / (rule.cosine_epochs or epochs))) / 2


def set_rates(optimiser: torch.optim.Optimizer, rule: OptimiserRule, factor: float) -> None:
    """Set each group's rate between the lowest (factor 0) and the group's highest rate (factor 1)."""
    for group in optimiser.param_groups:
        group["lr"] = rule.rate_floor + (group["highest_rate"] - rule.rate_floor) * factor
