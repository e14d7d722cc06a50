"""Distributed training: each process has a share of the batch, and the loss uses all pairs of the whole batch.

`torchrun` starts the processes and sets the environment variables that this module reads. Batch normalisation in
training mode uses the statistics of one forward pass, which are those of one rank's micro-batch.
"""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field

import torch
import torch.distributed
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process among all that train together; by default a single process.

    Attributes:
        rank: from 0; rank 0 validates and writes.
        count: number of processes.
        device: of this process.
    """

    rank: int = 0
    count: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def gather(self, values: Tensor) -> Tensor:
        """Return the rows of all ranks, in the order of the ranks, without gradients."""
        if self.count == 1:
            return values
        gathered = [torch.empty_like(values) for _ in range(self.count)]
        torch.distributed.all_gather(gathered, values.contiguous())
        return torch.cat(gathered)

    def select_own(self, values: Tensor) -> Tensor:
        """Return this rank's rows of a result of `gather`."""
        return values.chunk(self.count)[self.rank]

    def average_gradients(self, module: nn.Module) -> None:
        """Average a module's gradients, which all ranks compute from the same inputs, so that they are identical."""
        if self.count > 1:
            for parameter in module.parameters():
                if parameter.grad is not None:
                    torch.distributed.all_reduce(parameter.grad)
                    parameter.grad /= self.count

    def any_rank(self, *, here: bool) -> bool:
        """Return whether `here` is true on any rank."""
        if self.count == 1:
            return here
        answer = torch.tensor(float(here), device=self.device)
        torch.distributed.all_reduce(answer)
        return bool(answer > 0)

    def wrap(self, module: nn.Module) -> nn.Module:
        """Return `module` so that its backward pass averages the gradients over the ranks."""
        return module if self.count == 1 else DistributedDataParallel(module)


def skip_averaging(module: nn.Module) -> AbstractContextManager[None]:
    """Inside, backward passes do not average gradients; the next pass outside averages the sum."""
    return module.no_sync() if isinstance(module, DistributedDataParallel) else nullcontext()


@contextmanager
def join_ranks(device: torch.device) -> Iterator[Ranks]:
    """Join the processes that `torchrun` started, if any, until the outermost context exits.

    Args:
        device: "cuda" selects the GPU of this process's local rank.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    if count == 1:
        yield Ranks(device=device)
        return
    outermost = not torch.distributed.is_initialized()
    if outermost:
        torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Ranks(torch.distributed.get_rank(), count, device)
    finally:
        if outermost:
            torch.distributed.destroy_process_group()
