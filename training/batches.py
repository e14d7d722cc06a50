"""Training batches, drawn by worker threads ahead of the network; each face is a function of (seed, epoch, step, row).

So the number of workers, a kill and a resume, and the number of ranks change no pixel. Threads are enough: OpenCV
and NumPy release the interpreter's lock in all that costs time.
"""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.data.manipulations import Face, FaceSampler, Manipulation
from training.data.shards import FaceSet

BATCHES_AHEAD = 2


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
    """Which faces each step takes, and from which random numbers they are drawn.

    Attributes:
        faces: the training faces.
        sampler: draws a face.
        seed: of all draws.
        batch_size: faces of a step, over all ranks.
        rank, ranks: which share of each batch this process draws.
    """

    faces: FaceSet
    sampler: FaceSampler
    seed: int
    batch_size: int
    rank: int = 0
    ranks: int = 1

    @property
    def steps(self) -> int:
        """Steps of an epoch; a short last batch is dropped."""
        return len(self.faces) // self.batch_size

    def pick_rows(self, epoch: int, step: int) -> NDArray[np.intp]:
        """Return the rows of this rank's faces in step `step` of epoch `epoch`, both counted from 0."""
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.faces))
        share = self.batch_size // self.ranks
        start = step * self.batch_size + self.rank * share
        return order[start : start + share]

    def draw_face(self, row: int, epoch: int, step: int, position: int) -> tuple[Face, Manipulation]:
        """Return the crop of the face `row` at `position` of this rank's share, with its manipulation."""
        place = self.rank * (self.batch_size // self.ranks) + position
        rng = np.random.default_rng([self.seed, epoch, step, place])
        kind = self.sampler.draw_kind(rng)
        return self.sampler.sample(self.faces.wide[row], self.faces.landmarks[row], kind, rng), kind


def draw_epoch(plan: BatchPlan, epoch: int, first_step: int, pool: ThreadPoolExecutor) -> Iterator[Batch]:
    """Yield the batches of `epoch` from `first_step` on; up to `BATCHES_AHEAD` of them are drawn ahead in `pool`."""
    pending: deque[tuple[NDArray[np.intp], list[Future[tuple[Face, Manipulation]]]]] = deque()
    try:
        for step in range(first_step, plan.steps + BATCHES_AHEAD):
            if step < plan.steps:
                rows = plan.pick_rows(epoch, step)
                pending.append(
                    (rows, [pool.submit(plan.draw_face, row, epoch, step, place) for place, row in enumerate(rows)])
                )
            if step >= first_step + BATCHES_AHEAD and pending:
                yield collect(plan, *pending.popleft())
        while pending:
            yield collect(plan, *pending.popleft())
    finally:
        for _, futures in pending:
            for future in futures:
                future.cancel()


def collect(plan: BatchPlan, rows: NDArray[np.intp], futures: list[Future[tuple[Face, Manipulation]]]) -> Batch:
    """Return the drawn faces as one batch."""
    drawn = [future.result() for future in futures]
    return make_batch([face for face, _ in drawn], plan.faces.tags[rows], [kind for _, kind in drawn])


def make_batch(crops: list[Face], tags: NDArray[np.float64], kinds: list[Manipulation]) -> Batch:
    """Stack faces, tags and manipulations."""
    manipulated = torch.tensor([float(kind is not Manipulation.NONE) for kind in kinds])
    return Batch(torch.from_numpy(np.stack(crops)), torch.from_numpy(tags).float(), manipulated)
