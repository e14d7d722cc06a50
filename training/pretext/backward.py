"""One batch's losses and gradients, however it is divided: all pairs of the batch, over micro-batches and ranks.

The features are the cut. Below them faces do not depend on each other, so that they go through the extractor in
portions; above them the heads and the losses are cheap and see the whole batch. With several portions the first
pass keeps no graph, and a second one takes each portion's gradient down.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from training.pretext.batches import Batch
from training.pretext.distributed import Ranks, skip_averaging
from training.pretext.network import PretextNetwork
from training.pretext.ranking import Losses, combine_losses
from training.recipes import Recipe


def embed(extractor: nn.Module, crops_NHWC: Tensor, *, bf16: bool) -> Tensor:
    """Return [N, 768] features; with `bf16` the extractor runs under BF16 autocast, and FP32 features come out."""
    if not bf16:
        features: Tensor = extractor(crops_NHWC)
        return features
    with torch.autocast(crops_NHWC.device.type, torch.bfloat16):
        features = extractor(crops_NHWC)
    return features.float()


@contextmanager
def without_statistics(network: nn.Module) -> Iterator[None]:
    """Let batch normalisation use its batch's statistics inside, as in training, without counting them."""
    counting = [
        module
        for module in network.modules()
        if isinstance(module, nn.BatchNorm2d) and module.training and module.track_running_stats
    ]
    for module in counting:
        module.track_running_stats = False
    try:
        yield
    finally:
        for module in counting:
            module.track_running_stats = True


def accumulate_gradients(
    network: PretextNetwork, extractor: nn.Module, batch: Batch, recipe: Recipe, ranks: Ranks
) -> Losses:
    """Add the gradients of the whole batch's loss to the network's parameters; return the losses.

    Args:
        network: in training mode.
        extractor: `network.extractor`, as `ranks.share` returned it.
        batch: this rank's share of the batch; every rank's is equally large.
        recipe: its losses, and the size of its micro-batches.
        ranks: who else holds a share.
    """
    portions = torch.split(batch.crops, recipe.micro_batch or len(batch.crops))
    if len(portions) == 1:
        kept = embed(extractor, portions[0], bf16=recipe.bf16)
        own = kept.detach()
    else:
        with torch.no_grad(), without_statistics(network.extractor):
            own = torch.cat([embed(network.extractor, portion, bf16=recipe.bf16) for portion in portions])
    features = ranks.gather(own).requires_grad_()
    outputs = network.read_features(features)
    losses = combine_losses(outputs, ranks.gather(batch.tags), ranks.gather(batch.manipulated), recipe.losses)
    losses.total.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    ranks.average_gradients(network.heads)
    if features.grad is None or not any(parameter.requires_grad for parameter in network.extractor.parameters()):
        return losses
    # Each rank takes down its own rows alone, and the backward pass then averages: times the ranks it is the sum.
    gradients = torch.split(ranks.take_own(features.grad) * ranks.count, len(portions[0]))
    if len(portions) == 1:
        kept.backward(gradients[0])  # type: ignore[no-untyped-call]  # torch leaves it untyped
        return losses
    for portion, gradient in zip(portions[:-1], gradients[:-1], strict=True):
        with skip_averaging(extractor):
            embed(extractor, portion, bf16=recipe.bf16).backward(gradient)  # type: ignore[no-untyped-call]  # torch leaves it untyped
    embed(extractor, portions[-1], bf16=recipe.bf16).backward(gradients[-1])  # type: ignore[no-untyped-call]  # torch leaves it untyped
    return losses
