"""Training batches, which worker threads make in advance. Each face is a function of (seed, epoch, step, row).

So the number of workers, a resume after a kill, and the number of ranks change no pixel. Threads suffice, because
OpenCV and NumPy release the interpreter lock during all long operations.

Each face of a batch gives one crop to each trained task. The ranking task gets the stored crop, which `prepare` cut by
the scorer's code: the very pixels that are served, since a second resampling would remove part of the fine detail that
the EXIF task is about; a recipe can process a share of them. The manipulation task gets a crop of the common resampling
of `training.data.manipulations`, manipulated or untouched, so that resampling does not separate its classes. So the
pairs of Eq. 6 are those of all faces of the batch, and a batch of M faces has 2 M crops. The crops of a face are
adjacent, so that a micro-batch has both.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ingest.exif import TAG_NAMES
from training.data.manipulations import Augmentation, Face, FaceSampler, mirror
from training.data.shards import FaceSet
from training.pretext.classes import UNKNOWN, number_cameras, number_kind
from training.recipes import LossRule, Manipulation, Recipe

PREFETCHED_BATCHES = 2


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """C crops with the labels of their tasks.

    Attributes:
        crops: [C, S, S, 3] uint8.
        tags: [C, 4], NaN where absent, and for crops that are not ranked.
        manipulated: [C], 1 for manipulated faces, 0 for untouched ones, NaN for crops without the manipulation task.
        cameras, kinds: [C], classes of `training.pretext.classes`.
    """

    crops: Tensor
    tags: Tensor
    manipulated: Tensor
    cameras: Tensor
    kinds: Tensor

    def to(self, device: torch.device) -> "Batch":
        """Return the batch on `device`."""
        return Batch(*(getattr(self, field.name).to(device, non_blocking=True) for field in fields(self)))

    @classmethod
    def for_ranking(cls, crops: Tensor, tags: NDArray[np.float64]) -> "Batch":
        """Return crops as served, for the ranking task only."""
        unknown = torch.full((len(crops),), UNKNOWN)
        return cls(crops, torch.from_numpy(tags).float(), torch.full((len(crops),), torch.nan), unknown, unknown)

    @classmethod
    def for_manipulation(cls, crops: Tensor, kinds: Sequence[Manipulation]) -> "Batch":
        """Return crops for the manipulation task only."""
        manipulated = torch.tensor([float(kind is not Manipulation.NONE) for kind in kinds])
        numbers = torch.tensor([number_kind(kind) for kind in kinds])
        unknown = torch.full((len(crops),), UNKNOWN)
        return cls(crops, torch.full((len(crops), len(TAG_NAMES)), torch.nan), manipulated, unknown, numbers)

    def label_cameras(self, cameras_M: Tensor) -> "Batch":
        """Return the batch of M faces with the classes of their cameras, for the crops as served."""
        of_crops = cameras_M.to(self.tags.device).repeat_interleave(len(self.crops) // len(cameras_M))
        return replace(self, cameras=torch.where(self.manipulated.isnan(), of_crops, UNKNOWN))


@dataclass(frozen=True, slots=True, eq=False)
class BatchPlan:
    """The faces and the random numbers of each step.

    Attributes:
        faces: the training faces.
        sampler: draws augmentations and applies them.
        recipe: the seed of all random choices, the batch size over all ranks, and the tasks.
        rank, ranks: the share of each batch that this process makes.
        cameras: the classes of the camera head; empty without it.
    """

    faces: FaceSet
    sampler: FaceSampler
    recipe: Recipe
    rank: int = 0
    ranks: int = 1
    cameras: tuple[str, ...] = ()

    @property
    def steps(self) -> int:
        """Steps of an epoch; an incomplete last batch is dropped."""
        return len(self.faces) // self.recipe.batch_size

    def select_rows(self, epoch: int, step: int) -> NDArray[np.intp]:
        """Return the rows of this rank's faces in step `step` of epoch `epoch`, both counted from 0."""
        rng = np.random.default_rng([self.recipe.seed, epoch])
        if self.recipe.balance_sources:
            order = draw_balanced(self.faces.sources, rng)
        else:
            order = rng.permutation(len(self.faces))
        share = self.recipe.batch_size // self.ranks
        start = step * self.recipe.batch_size + self.rank * share
        return order[start : start + share]

    def draw_augmentation(self, epoch: int, step: int, position: int) -> Augmentation:
        """Return the augmentation of the face at `position` of this rank's share."""
        batch_position = self.rank * (self.recipe.batch_size // self.ranks) + position
        rng = np.random.default_rng([self.recipe.seed, epoch, step, batch_position])
        return self.sampler.draw(rng, self.sampler.draw_kind(rng))

    def read_served(self, row: int, augmentation: Augmentation) -> Face | None:
        """Return the stored crop of the face `row`, mirrored or processed at most; None without the ranking task."""
        if not self.recipe.losses.ranking_weight:
            return None
        if self.sampler.rule.processed_ranking:
            processed = self.sampler.process_ranked(self.faces.wide[row], augmentation)
            if processed is not None:
                return processed
        return mirror(self.faces.crops[row], augmentation)

    def manipulate(self, row: int, augmentation: Augmentation) -> Face | None:
        """Return the wide crop of the face `row` with its flips; None without the manipulation task."""
        if not self.recipe.losses.manipulation_weight:
            return None
        return self.sampler.manipulate(self.faces.wide[row], self.faces.landmarks[row], augmentation)


Prepared = tuple[Face | None, Face | None]  # a face for the ranking task and for the manipulation task


class BatchMaker(Protocol):
    """Makes batches in two parts: `prepare` runs in worker threads, `finish` on the device of the network."""

    def prepare(self, row: int, augmentation: Augmentation) -> Prepared:
        """Return the prepared part of one face."""

    def finish(self, prepared: list[Prepared], tags: NDArray[np.float64], augmentations: list[Augmentation]) -> Batch:
        """Return the batch."""


@dataclass(frozen=True, slots=True, eq=False)
class CpuBatchMaker:
    """Makes whole faces in the worker threads."""

    plan: BatchPlan

    def prepare(self, row: int, augmentation: Augmentation) -> Prepared:
        """Return the crops."""
        wide = self.plan.manipulate(row, augmentation)
        resampled = None if wide is None else self.plan.sampler.resample(wide, augmentation)
        return self.plan.read_served(row, augmentation), resampled

    def finish(self, prepared: list[Prepared], tags: NDArray[np.float64], augmentations: list[Augmentation]) -> Batch:
        """Return the batch."""
        served, resampled = (stack_faces(faces) for faces in zip(*prepared, strict=True))
        kinds = [augmentation.kind for augmentation in augmentations]
        return join_tasks(served, resampled, tags, kinds, self.plan.recipe.losses)


def iterate_epoch(
    plan: BatchPlan, maker: BatchMaker, epoch: int, first_step: int, pool: ThreadPoolExecutor
) -> Iterator[Batch]:
    """Yield the batches of `epoch` from `first_step` on; `pool` makes up to `PREFETCHED_BATCHES` of them in advance."""
    pending: deque[tuple[NDArray[np.intp], list[Augmentation], list[Future[Prepared]]]] = deque()
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
                batch = maker.finish([future.result() for future in futures], plan.faces.tags[rows], augmentations)
                yield batch.label_cameras(number_cameras(plan.faces.cameras[rows], plan.cameras))
    finally:
        for _, _, futures in pending:
            for future in futures:
                future.cancel()


def draw_balanced(sources_N: NDArray[np.str_], rng: np.random.Generator) -> NDArray[np.intp]:
    """Return N rows, each drawn with a probability in proportion to n^-1/2 for a source with n faces."""
    _, numbers, faces = np.unique(sources_N, return_inverse=True, return_counts=True)
    weights = faces[numbers] ** -0.5
    return rng.choice(len(sources_N), len(sources_N), p=weights / weights.sum())


def stack_faces(faces: Sequence[Face | None], *, pinned: bool = False) -> Tensor | None:
    """Return faces of one size, [M, S, S, 3], or None if their task is not trained; `pinned` in page-locked memory."""
    present = [face for face in faces if face is not None]
    if not present:
        return None
    stacked = torch.empty((len(present), *present[0].shape), dtype=torch.uint8, pin_memory=pinned)
    np.stack(present, out=stacked.numpy())
    return stacked


def join_tasks(
    served: Tensor | None,
    resampled: Tensor | None,
    tags: NDArray[np.float64],
    kinds: Sequence[Manipulation],
    losses: LossRule,
) -> Batch:
    """Return the batch of M faces with the crops of each trained task; the crops of a face are adjacent.

    Args:
        served: [M, S, S, 3], for the ranking task.
        resampled: [M, S, S, 3], for the manipulation task.
        tags: [M, 4].
        kinds: the manipulations of `resampled`.
        losses: whether `resampled` is ranked, too.
    """
    parts = []
    if served is not None:
        parts.append(Batch.for_ranking(served, tags))
    if resampled is not None:
        part = Batch.for_manipulation(resampled, kinds)
        parts.append(replace(part, tags=torch.from_numpy(tags).float()) if losses.rank_manipulated else part)
    columns = ([getattr(part, field.name) for part in parts] for field in fields(Batch))
    return Batch(*(torch.stack(column, dim=1).flatten(0, 1) for column in columns))
