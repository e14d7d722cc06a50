"""Several processes that train as one: each holds a share of the batch, all see the pairs of the whole batch.

Started by `torchrun`, which sets the environment that is read here. Batch normalisation in training mode takes the
statistics of the faces that go through the network at once, so those of one rank's micro-batch.
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
    """This process's place among those that train; one alone by default.

    Attributes:
        rank: from 0; rank 0 validates and writes.
        count: number of processes.
        device: where this one computes.
    """

    rank: int = 0
    count: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def gather(self, values: Tensor) -> Tensor:
        """Return the rows of all ranks, in the order of the ranks; no gradient flows through."""
        if self.count == 1:
            return values
        gathered = [torch.empty_like(values) for _ in range(self.count)]
        torch.distributed.all_gather(gathered, values.contiguous())
        return torch.cat(gathered)

    def take_own(self, values: Tensor) -> Tensor:
        """Return this rank's rows of what `gather` returned."""
        return values.chunk(self.count)[self.rank]

    def average_gradients(self, module: nn.Module) -> None:
        """Make the gradients of a module that every rank computes alike the same to the last bit."""
        if self.count > 1:
            for parameter in module.parameters():
                if parameter.grad is not None:
                    torch.distributed.all_reduce(parameter.grad)
                    parameter.grad /= self.count

    def agree(self, *, here: bool) -> bool:
        """Return whether any rank says yes."""
        if self.count == 1:
            return here
        answer = torch.tensor(float(here), device=self.device)
        torch.distributed.all_reduce(answer)
        return bool(answer > 0)

    def share(self, module: nn.Module) -> nn.Module:
        """Return `module` with gradients averaged over the ranks by its backward pass."""
        return module if self.count == 1 else DistributedDataParallel(module)


def skip_averaging(module: nn.Module) -> AbstractContextManager[None]:
    """Keep the gradients of the passes inside to this rank, to be averaged by the next pass outside."""
    return module.no_sync() if isinstance(module, DistributedDataParallel) else nullcontext()


@contextmanager
def join_ranks(device: torch.device) -> Iterator[Ranks]:
    """Join the processes that `torchrun` started, or be alone; joined processes stay so until the outermost exit.

    Args:
        device: "cuda" takes the GPU of this process's local rank.
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
