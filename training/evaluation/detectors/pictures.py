"""The pictures on which a baseline is trained, and the held-out ones on which its weights are selected."""

import hashlib
import math
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor

from training.evaluation.detectors.base import Design, Picture
from training.evaluation.detectors.windows import CutRule, Windows, cut_for_run

SEED = 2024
HELD_OUT_SHARE = 0.1
MAX_HELD_OUT = 500  # of each class; bounds the time of a validation
PREFETCHED_BATCHES = 2


@dataclass(frozen=True, slots=True, eq=False)
class TrainingPictures:
    """Pictures of any sizes.

    Attributes:
        real, generated: on which the network is trained.
        held_out_real, held_out_generated: on which its weights are selected.
        digest: differs for other pictures.
        facts: what `baseline.json` states about them.
    """

    real: Sequence[Picture]
    generated: Sequence[Picture]
    held_out_real: Sequence[Picture]
    held_out_generated: Sequence[Picture]
    digest: str
    facts: dict[str, Any]

    @classmethod
    def split(cls, real: Windows, generated: Windows, generator: str, seed: int = SEED) -> Self:
        """Hold out sources of the real pictures (of a single source, pictures), and pictures of the generator.

        Raises:
            ValueError: a class has a single picture.
        """
        for kind, windows in (("real", real), ("generated", generated)):
            if len(windows) == 1:
                message = f"there is a single {kind} face: two or more are needed, one to train and one to validate"
                raise ValueError(message)
        rng = np.random.default_rng(seed)
        real_out, generated_out = hold_out(real.sources, rng), hold_out(generated.names, rng)
        sources = {
            name: _count(real_out[real.sources == name]) for name in sorted(set(map(str, real.sources.tolist())))
        }
        facts = {
            "generator": generator,
            "real": _count(real_out) | _describe(real) | {"sources": sources},
            "generated": _count(generated_out) | _describe(generated),
        }
        names = [list(zip(each.names.tolist(), each.short_sides.tolist(), strict=True)) for each in (real, generated)]
        return cls(
            real.select(~real_out).pictures,
            generated.select(~generated_out).pictures,
            _spread(real, real_out),
            _spread(generated, generated_out),
            hashlib.sha256(repr(names).encode()).hexdigest(),
            facts,
        )


def cut_pictures(run: Path, real: Path, generated: Path, threads: int, console: Console) -> TrainingPictures:
    """Cut the faces of two folders as the run's faces are cut, and print how they are divided.

    Args:
        run: the run folder; the windows are kept in its folder `windows`.
        real: folder with one folder for each source.
        generated: folder of one generator's pictures.
        threads: of the face detector.
        console: shows progress.

    Raises:
        FileNotFoundError: a folder has no picture, or none with a face.
        ValueError: a class has a single face.
    """
    rule = CutRule.of_run(run, threads)
    of_real, of_generated = (cut_for_run(folder, rule, run, console) for folder in (real, generated))
    pictures = TrainingPictures.split(of_real, of_generated, generated.resolve().name)
    for sentence in describe_split(pictures.facts):
        console.print(sentence, soft_wrap=True)
    return pictures


def describe_split(facts: dict[str, Any]) -> list[str]:
    """Return in words how many faces are trained on and held out."""
    real, generated, sources = facts["real"], facts["generated"], facts["real"]["sources"]
    whole = sum(not of["train"] for of in sources.values())
    unit = f"{whole} of {len(sources)} sources" if len(sources) > 1 else "there is one source"
    of_real = f"real faces: {real['train']} to train, {real['held_out']} held out ({unit})"
    of_generated = f"faces of {facts['generator']}: {generated['train']} to train, {generated['held_out']} held out"
    return [f"{of_real}; dropped: {real['dropped']}", f"{of_generated}; dropped: {generated['dropped']}"]


def hold_out(groups_N: NDArray[np.str_], rng: np.random.Generator) -> NDArray[np.bool_]:
    """Return which of N pictures, of two or more, are held out: about a tenth, in whole groups.

    Groups are taken in random order while they fit; one is always held out and one never. A single group is divided
    by picture.
    """
    _, codes, counts = np.unique(groups_N, return_inverse=True, return_counts=True)
    if len(counts) == 1:
        codes, counts = np.arange(len(groups_N)), np.ones(len(groups_N), np.int64)
    most, taken = max(HELD_OUT_SHARE * len(groups_N), counts.min()), 0
    held_out = np.zeros(len(counts), np.bool_)
    for group in rng.permutation(len(counts)):
        if taken + counts[group] <= most:
            taken, held_out[group] = taken + counts[group], True
    chosen: NDArray[np.bool_] = held_out[codes]
    return chosen


@dataclass(frozen=True, slots=True)
class BatchMaker:
    """Makes training batches; the seed and the step determine all random choices.

    Attributes:
        design: its augmentation and preprocessing.
        pictures: of both classes.
        batch_size: in pictures; half of them are generated.
        seed: of the choices.
    """

    design: Design
    pictures: TrainingPictures
    batch_size: int
    seed: int

    def iterate(self, first: int, steps: int, pool: Executor) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield inputs [N, C, S, S] and labels [N] of the steps `first` to `steps`; `pool` makes them in advance."""
        waiting: deque[list[Future[NDArray[np.float32]]]] = deque()
        following = first
        while waiting or following < steps:
            while following < steps and len(waiting) < PREFETCHED_BATCHES:
                waiting.append([pool.submit(self.make, following, place) for place in range(self.batch_size)])
                following += 1
            inputs = np.stack([future.result() for future in waiting.popleft()])
            yield torch.from_numpy(inputs), torch.from_numpy(self.labels)

    @property
    def labels(self) -> NDArray[np.float32]:
        """[N], 1 for generated pictures."""
        return (np.arange(self.batch_size) >= self.batch_size - self.batch_size // 2).astype(np.float32)

    def make(self, step: int, place: int) -> NDArray[np.float32]:
        """Return the input at a place of the batch of a step."""
        generated = self.batch_size // 2
        real = self.batch_size - generated
        if place < real:
            pictures, number = self.pictures.real, step * real + place
        else:
            pictures, number = self.pictures.generated, step * generated + place - real
        passes, row = divmod(number, len(pictures))
        order = np.random.default_rng((self.seed, int(place < real), passes)).permutation(len(pictures))
        picture = pictures[int(order[row])]
        if self.design.rule.augment is not None:
            picture = self.design.rule.augment(picture, np.random.default_rng((self.seed, 2, step, place)))
        return self.design.preprocess(picture)


def _count(held_out_N: NDArray[np.bool_]) -> dict[str, int]:
    return {"train": int((~held_out_N).sum()), "held_out": int(held_out_N.sum())}


def _describe(windows: Windows) -> dict[str, Any]:
    return {"pictures": windows.examined, "dropped": windows.dropped}


def _spread(windows: Windows, held_out_N: NDArray[np.bool_]) -> Sequence[Picture]:
    """Return the held-out windows, of more than `MAX_HELD_OUT` every second, third and so on."""
    rows = np.flatnonzero(held_out_N)
    return windows.select(rows[:: math.ceil(len(rows) / MAX_HELD_OUT)]).pictures
