"""Whole training steps as a share of the bare forward and backward pass of the same network on the same batch.

Prints, never asserts. A whole step draws the faces of a batch, takes their gradients and moves the weights; the bare
pass has its batch at hand and no loss. Both are measured in turn, so that a slower minute slows both. Checkpoints and
validation are left out. On a machine with other work the share of core-seconds is the steadier figure, with one thread
above all, as long as the network keeps the cores busy. On a GPU the resampling runs there.
`python tests/benchmarks/training_speed.py [--device cuda] [--batch 256] [--threads 1]`
"""

import argparse
import dataclasses
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from training.data.manipulations import make_sampler
from training.data.shards import WIDE_SIZE, FaceSet
from training.pretext.backward import embed
from training.pretext.batch_makers import choose_batch_maker
from training.pretext.batches import Batch, BatchPlan, iterate_epoch
from training.pretext.checkpoints import TrainingPosition
from training.pretext.copiers import build_copier
from training.pretext.copying import FaceCopier
from training.pretext.distributed import Ranks
from training.pretext.network import build_network
from training.pretext.optimiser import make_optimiser
from training.pretext.trainer import Training, TrainOptions
from training.recipes import RECIPES, Recipe

CORES = len(os.sched_getaffinity(0))


def make_noise(count: int) -> FaceSet:
    """Return `count` noise pictures with landmarks where a face has them."""
    rng = np.random.default_rng(0)
    points = rng.uniform(0.3, 0.7, (count, 68, 2)) * WIDE_SIZE
    # Eyes and mouth of the size in real crops, because the time of a flip depends on it.
    for part, centre, reach in (
        (slice(36, 42), (0.38, 0.42), 0.06),
        (slice(42, 48), (0.62, 0.42), 0.06),
        (slice(48, 68), (0.5, 0.68), 0.11),
    ):
        points[:, part] = (np.array(centre) + rng.uniform(-reach, reach, points[:, part].shape)) * WIDE_SIZE
    names = np.arange(count).astype(str)
    return FaceSet(
        crops=rng.integers(0, 256, (count, 224, 224, 3), dtype=np.uint8),
        wide=rng.integers(0, 256, (count, WIDE_SIZE, WIDE_SIZE, 3), dtype=np.uint8),
        landmarks=points.astype(np.float32),
        tags=rng.uniform(1, 2, (count, 4)),
        photos=names,
        sources=names,
        cameras=names,
        short_sides=np.full(count, 200.0),
        jpeg_qualities=np.full(count, 92, np.int16),
    )


def time_once(work: Callable[[], object], device: torch.device) -> tuple[float, float]:
    """Return the wall seconds of `work`, the device's included, and this process's core-seconds."""
    started = time.perf_counter(), time.process_time()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started[0], time.process_time() - started[1]


def measure(recipe: Recipe, steps: int, rounds: int, device: torch.device) -> tuple[np.ndarray, np.ndarray]:
    """Return median wall seconds and core-seconds of a whole step and of a bare pass; a round is `steps` of each."""
    faces = make_noise(recipe.batch_size * (steps + 2))
    network = build_network(recipe).to(device, memory_format=torch.channels_last).train()
    kinds = recipe.augment.copiers.kinds if recipe.augment.copiers else ()
    copier = FaceCopier(tuple(build_copier(kind).eval() for kind in kinds))  # untrained ones take the same time
    sampler = make_sampler(recipe.preprocess.size, WIDE_SIZE, recipe.augment, recipe.seed, copier)
    plan = BatchPlan(faces, sampler, recipe)
    maker = choose_batch_maker(plan, device)
    cv2.setNumThreads(1)
    training = Training(network, recipe, Path(), TrainOptions(device=device), Ranks(device=device))
    training.optimiser = make_optimiser(network, recipe.optimiser)
    training.extractor, training.steps, training.position = network.extractor, plan.steps, TrainingPosition(len(faces))
    whole, bare = [], []
    with ThreadPoolExecutor(CORES) as pool:
        for epoch in range(rounds):
            batches = iterate_epoch(plan, maker, epoch, 0, pool)
            batch = next(batches).to(device)
            training.take_step(batch)  # warms up; the workers fill their queue as in a long run

            def take_steps(batches: Iterator[Batch] = batches) -> None:
                for batch in islice(batches, steps):
                    training.take_step(batch.to(device))

            def pass_bare(crops: torch.Tensor = batch.crops) -> None:
                for _ in range(steps):
                    network.zero_grad()
                    embed(network.extractor, crops, bf16=recipe.bf16).sum().backward()

            whole.append(time_once(take_steps, device))
            for _ in batches:  # queued batches must not be made during the measurement of the bare pass
                pass
            bare.append(time_once(pass_bare, device))
    return np.median(whole, axis=0) / steps, np.median(bare, axis=0) / steps


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--threads", type=int, default=CORES)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    torch.set_num_threads(arguments.threads)
    table = Table(
        *("recipe", "backbone", "bare faces/s", "whole faces/s", "share of bare", "in core-seconds"),
        title=f"batch {arguments.batch} faces of two crops, {arguments.threads} threads, {device}",
    )
    for name in ("paper", "starter"):
        recipe = dataclasses.replace(RECIPES[name](), batch_size=arguments.batch)
        whole, bare = measure(recipe, arguments.steps, arguments.rounds, device)
        rates = [f"{arguments.batch / seconds[0]:.1f}" for seconds in (bare, whole)]
        table.add_row(name, recipe.backbone, *rates, *(f"{share:.0%}" for share in bare / whole))
    Console().print(table)


if __name__ == "__main__":
    main()
