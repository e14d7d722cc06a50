"""Choose where batches are made: on the CPU, or on the GPU that trains. Copies and processing are made on the CPU."""

import torch

from training.pretext.batches import BatchMaker, BatchPlan, CpuBatchMaker


def choose_batch_maker(plan: BatchPlan, device: torch.device) -> BatchMaker:
    """Return the maker of batches for a network on `device`."""
    rule = plan.sampler.rule
    if device.type != "cuda" or rule.processing or rule.copiers is not None:
        return CpuBatchMaker(plan)
    from training.pretext.batches_cuda import CudaBatchMaker  # noqa: PLC0415 - it imports this module

    return CudaBatchMaker(plan, device)
