"""Training batches, which worker threads make in advance. Each face is a function of (seed, epoch, step, row).

So the number of workers, a resume after a kill, and the number of ranks change no pixel. Threads suffice, because
OpenCV and NumPy release the interpreter lock during all long operations.
"""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.data.manipulations import Augmentation, Face, FaceSampler, Manipulation
from training.data.shards import FaceSet

PREFETCHED_BATCHES = 2


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Crops [M, S, S, 3] uint8, tags [M, 4] (NaN absent), and 1 for each manipulated face, [M]."""

    crops: Tensor
    tags: Tensor
    manipulated: Tensor

    def to(self, device: torch.device) -> "Batch":
        """Return the batch on `device`."""
        return Batch(*(values.to(device, non_blocking=True) for values in (self.crops, self.tags, self.manipulated)))


@dataclass(frozen=True, slots=True, eq=False)
class BatchPlan:
    """The faces and the random numbers of each step.

    Attributes:
        faces: the training faces.
        sampler: draws augmentations and applies them.
        seed: of all random choices.
        batch_size: faces of a step, over all ranks.
        rank, ranks: the share of each batch that this process makes.
    """

    faces: FaceSet
    sampler: FaceSampler
    seed: int
    batch_size: int
    rank: int = 0
    ranks: int = 1

    @property
    def steps(self) -> int:
        """Steps of an epoch; an incomplete last batch is dropped."""
        return len(self.faces) // self.batch_size

    def select_rows(self, epoch: int, step: int) -> NDArray[np.intp]:
        """Return the rows of this rank's faces in step `step` of epoch `epoch`, both counted from 0."""
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.faces))
        share = self.batch_size // self.ranks
        start = step * self.batch_size + self.rank * share
        return order[start : start + share]

    def draw_augmentation(self, epoch: int, step: int, position: int) -> Augmentation:
        """Return the augmentation of the face at `position` of this rank's share."""
        batch_position = self.rank * (self.batch_size // self.ranks) + position
        rng = np.random.default_rng([self.seed, epoch, step, batch_position])
        return self.sampler.draw(rng, self.sampler.draw_kind(rng))

    def augment_face(self, row: int, augmentation: Augmentation) -> Face:
        """Return the crop of the face `row` that `augmentation` describes."""
        return self.sampler.apply(self.faces.wide[row], self.faces.landmarks[row], augmentation)


class BatchMaker(Protocol):
    """Makes batches in two parts: `prepare` runs in worker threads, `finish` on the device of the network."""

    def prepare(self, row: int, augmentation: Augmentation) -> Any:  # noqa: ANN401 - only the same class's `finish` reads it
        """Return the prepared part of one face."""

    def finish(self, prepared: list[Any], tags: NDArray[np.float64], augmentations: list[Augmentation]) -> Batch:
        """Return the batch."""


@dataclass(frozen=True, slots=True, eq=False)
class CpuBatchMaker:
    """Makes whole faces in the worker threads."""

    plan: BatchPlan

    def prepare(self, row: int, augmentation: Augmentation) -> Face:
        """Return the crop."""
        return self.plan.augment_face(row, augmentation)

    def finish(self, prepared: list[Face], tags: NDArray[np.float64], augmentations: list[Augmentation]) -> Batch:
        """Return the batch."""
        return make_batch(prepared, tags, [augmentation.kind for augmentation in augmentations])


def iterate_epoch(
    plan: BatchPlan, maker: BatchMaker, epoch: int, first_step: int, pool: ThreadPoolExecutor
) -> Iterator[Batch]:
    """Yield the batches of `epoch` from `first_step` on; `pool` makes up to `PREFETCHED_BATCHES` of them in advance."""
    pending: deque[tuple[NDArray[np.intp], list[Augmentation], list[Future[Any]]]] = deque()
    try:
        for step in range(first_step, plan.steps + PREFETCHED_BATCHES):
            if step < plan.steps:
                rows = plan.select_rows(epoch, step)
                augmentations = [plan.draw_augmentation(epoch, step, place) for place in range(len(rows))]
                pairs = zip(rows, augmentations, strict=True)
                pending.append(
                    (
                        rows,
                        augmentations,
                        [pool.submit(maker.prepare, int(row), augmentation) for row, augmentation in pairs],
                    )
                )
            if step >= first_step + PREFETCHED_BATCHES and pending:
                rows, augmentations, futures = pending.popleft()
                yield maker.finish([future.result() for future in futures], plan.faces.tags[rows], augmentations)
    finally:
        for _, _, futures in pending:
            for future in futures:
                future.cancel()


def make_batch(crops: list[Face], tags: NDArray[np.float64], kinds: list[Manipulation]) -> Batch:
    """Stack faces, tags and manipulations."""
    manipulated = torch.tensor([float(kind is not Manipulation.NONE) for kind in kinds])
    return Batch(torch.from_numpy(np.stack(crops)), torch.from_numpy(tags).float(), manipulated)
