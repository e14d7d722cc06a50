"""Where batches are made: on the CPU, or on the GPU that trains."""

import torch

from training.pretext.batches import BatchMaker, BatchPlan, CpuBatches


def choose_maker(plan: BatchPlan, device: torch.device) -> BatchMaker:
    """Return what makes batches for a network on `device`."""
    if device.type != "cuda":
        return CpuBatches(plan)
    from training.pretext.batches_cuda import CudaBatches  # noqa: PLC0415 - it imports this module

    return CudaBatches(plan, device)
