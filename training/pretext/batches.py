"""Training batches, drawn by worker threads ahead of the network; each face is a function of (seed, epoch, step, row).

So the number of workers, a kill and a resume, and the number of ranks change no pixel. Threads are enough: OpenCV
and NumPy release the interpreter's lock in all that costs time.
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

from training.data.manipulations import Draw, Face, FaceSampler, Manipulation
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

    def draw_face(self, epoch: int, step: int, position: int) -> Draw:
        """Return what happens to the face at `position` of this rank's share."""
        place = self.rank * (self.batch_size // self.ranks) + position
        rng = np.random.default_rng([self.seed, epoch, step, place])
        return self.sampler.draw(rng, self.sampler.draw_kind(rng))

    def cut_face(self, row: int, draw: Draw) -> Face:
        """Return the crop of the face `row` as `draw` describes it."""
        return self.sampler.apply(self.faces.wide[row], self.faces.landmarks[row], draw)


class BatchMaker(Protocol):
    """Makes batches in two halves: `prepare` runs in worker threads, `finish` where the network runs."""

    def prepare(self, row: int, draw: Draw) -> Any:  # noqa: ANN401 - what one half hands the other is theirs alone
        """Return one face, as far as it is made ahead."""

    def finish(self, prepared: list[Any], tags: NDArray[np.float64], draws: list[Draw]) -> Batch:
        """Return the batch."""


@dataclass(frozen=True, slots=True, eq=False)
class CpuBatches:
    """Whole faces from the worker threads."""

    plan: BatchPlan

    def prepare(self, row: int, draw: Draw) -> Face:
        """Return the crop."""
        return self.plan.cut_face(row, draw)

    def finish(self, prepared: list[Face], tags: NDArray[np.float64], draws: list[Draw]) -> Batch:
        """Return the batch."""
        return make_batch(prepared, tags, [draw.kind for draw in draws])


def draw_epoch(
    plan: BatchPlan, maker: BatchMaker, epoch: int, first_step: int, pool: ThreadPoolExecutor
) -> Iterator[Batch]:
    """Yield the batches of `epoch` from `first_step` on; up to `BATCHES_AHEAD` of them are drawn ahead in `pool`."""
    pending: deque[tuple[NDArray[np.intp], list[Draw], list[Future[Any]]]] = deque()
    try:
        for step in range(first_step, plan.steps + BATCHES_AHEAD):
            if step < plan.steps:
                rows = plan.pick_rows(epoch, step)
                draws = [plan.draw_face(epoch, step, place) for place in range(len(rows))]
                pairs = zip(rows, draws, strict=True)
                pending.append((rows, draws, [pool.submit(maker.prepare, int(row), draw) for row, draw in pairs]))
            if step >= first_step + BATCHES_AHEAD and pending:
                rows, draws, futures = pending.popleft()
                yield maker.finish([future.result() for future in futures], plan.faces.tags[rows], draws)
    finally:
        for _, _, futures in pending:
            for future in futures:
                future.cancel()


def make_batch(crops: list[Face], tags: NDArray[np.float64], kinds: list[Manipulation]) -> Batch:
    """Stack faces, tags and manipulations."""
    manipulated = torch.tensor([float(kind is not Manipulation.NONE) for kind in kinds])
    return Batch(torch.from_numpy(np.stack(crops)), torch.from_numpy(tags).float(), manipulated)
