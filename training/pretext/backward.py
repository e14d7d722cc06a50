"""The losses and gradients of one batch, with all its pairs, over micro-batches and ranks.

The computation is split at the features. The extractor processes faces independently, so they can pass it in
micro-batches. The heads and the losses are cheap and process the whole batch. With several micro-batches, a first pass
without a graph computes the features, and a second pass back-propagates the gradient of each micro-batch.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache

import torch
from torch import Tensor, nn

from training.pretext.batches import Batch
from training.pretext.classes import CAMERA, KIND, classification_loss
from training.pretext.distributed import Ranks, skip_averaging
from training.pretext.network import PretextNetwork
from training.pretext.ranking import Losses, combine_losses
from training.recipes import Recipe


@cache
def has_bf16(device: str) -> bool:
    """Return whether BF16 is faster than FP32 there: a CPU without its instructions converts every number."""
    return device != "cpu" or torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()  # noqa: SLF001 - torch has no public name for them


def embed(extractor: nn.Module, crops_NHWC: Tensor, *, bf16: bool) -> Tensor:
    """Return [N, D] features in FP32; with `bf16` the extractor runs under BF16 autocast, if the device has BF16."""
    if not (bf16 and has_bf16(crops_NHWC.device.type)):
        features: Tensor = extractor(crops_NHWC)
        return features
    with torch.autocast(crops_NHWC.device.type, torch.bfloat16):
        features = extractor(crops_NHWC)
    return features.float()


@contextmanager
def pause_running_statistics(network: nn.Module) -> Iterator[None]:
    """Inside, batch normalisation uses the statistics of its batch, but does not update the running statistics."""
    updating = [
        module
        for module in network.modules()
        if isinstance(module, nn.BatchNorm2d) and module.training and module.track_running_stats
    ]
    for module in updating:
        module.track_running_stats = False
    try:
        yield
    finally:
        for module in updating:
            module.track_running_stats = True


def accumulate_gradients(
    network: PretextNetwork, extractor: nn.Module, batch: Batch, recipe: Recipe, ranks: Ranks
) -> Losses:
    """Add the gradients of the whole batch's loss to the network's parameters; return the losses.

    Args:
        network: in training mode.
        extractor: `network.extractor`, as `ranks.wrap` returned it.
        batch: this rank's share of the batch; all ranks have shares of one size.
        recipe: gives the losses and the size of micro-batches.
        ranks: the processes that train together.
    """
    micro_batches = torch.split(batch.crops, recipe.micro_batch or len(batch.crops))
    if len(micro_batches) == 1:
        with_graph = embed(extractor, micro_batches[0], bf16=recipe.bf16)
        own = with_graph.detach()
    else:
        with torch.no_grad(), pause_running_statistics(network.extractor):
            own = torch.cat([embed(network.extractor, crops, bf16=recipe.bf16) for crops in micro_batches])
    features = ranks.gather(own).requires_grad_()
    centred = network.centre(features)
    outputs = network.read_centred(centred)
    losses = combine_losses(outputs, ranks.gather(batch.tags), ranks.gather(batch.manipulated), recipe.losses)
    weights = {CAMERA: recipe.losses.camera_weight, KIND: recipe.losses.kind_weight}
    labels = {CAMERA: batch.cameras, KIND: batch.kinds}
    for task, classifier in network.classifiers.items():
        loss = classification_loss(classifier(centred), ranks.gather(labels[task]))
        classes = losses.classes | {task: loss.detach()}
        losses = replace(losses, total=losses.total + weights[task] * loss, classes=classes)
    losses.total.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    ranks.average_gradients(network.heads)
    ranks.average_gradients(network.classifiers)
    if features.grad is None or not any(parameter.requires_grad for parameter in network.extractor.parameters()):
        return losses
    # Each rank back-propagates its own rows, and the backward pass averages over the ranks: the factor makes it a sum.
    gradients = torch.split(ranks.select_own(features.grad) * ranks.count, len(micro_batches[0]))
    if len(micro_batches) == 1:
        with_graph.backward(gradients[0])  # type: ignore[no-untyped-call]  # torch leaves it untyped
        return losses
    for crops, gradient in zip(micro_batches[:-1], gradients[:-1], strict=True):
        with skip_averaging(extractor):
            embed(extractor, crops, bf16=recipe.bf16).backward(gradient)  # type: ignore[no-untyped-call]  # torch leaves it untyped
    embed(extractor, micro_batches[-1], bf16=recipe.bf16).backward(gradients[-1])  # type: ignore[no-untyped-call]  # torch leaves it untyped
    return losses
