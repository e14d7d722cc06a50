"""A tiny training for the tests: synthetic faces, a network of two layers, steps of milliseconds.

Run as a program, it trains in a process of its own: `tiny_training.py RUN [--die-after N]`.
"""

import argparse
import dataclasses
import json
import os
import signal
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from torch import nn

from ingest.spec import PreprocessSpec
from training.data.shards import WIDE_SIZE, FaceSet
from training.pretext.backbone import Normalise
from training.pretext.network import PretextNetwork
from training.pretext.trainer import TrainOptions, train_extractor
from training.recipes import PAPER_FEATURES, AugmentRule, OptimiserRule, Recipe

TRAIN_FACES, HELD_OUT_FACES = 16, 4


class TinyExtractor(nn.Module):
    """Two layers with batch normalisation; kills its process after `die_after` passes."""

    def __init__(self, die_after: int | None = None) -> None:
        super().__init__()
        self.normalise = Normalise(PreprocessSpec())
        self.shrink = nn.AvgPool2d(8)
        self.first = nn.Conv2d(3, 8, 3, 2)
        self.norm = nn.BatchNorm2d(8)
        self.last = nn.Linear(8 * 13 * 13, PAPER_FEATURES)
        self.die_after, self.passes = die_after, 0

    def forward(self, crops_NHWC: torch.Tensor) -> torch.Tensor:
        """Map [N, 224, 224, 3] to [N, 768]."""
        self.passes += self.training
        if self.die_after is not None and self.passes > self.die_after:
            os.kill(os.getpid(), signal.SIGKILL)
        x = self.norm(self.first(self.shrink(self.normalise(crops_NHWC)))).relu()
        features: torch.Tensor = self.last(x.flatten(1))
        return features


def make_faces(count: int, seed: int = 0) -> FaceSet:
    """Return `count` smooth random pictures; brighter ones have larger tags."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 200, (count, 5, 5, 3)).astype(np.float32) + np.linspace(0, 55, count)[:, None, None, None]
    wide = np.kron(small, np.ones((1, WIDE_SIZE // 5, WIDE_SIZE // 5, 1), np.float32)).astype(np.uint8)
    return FaceSet(
        crops=wide[:, :224, :224],
        wide=wide,
        landmarks=rng.uniform(80, 240, (count, 68, 2)).astype(np.float32),
        tags=np.linspace(1, 2, count)[:, None] * np.array([2.0, 0.01, 50.0, 100.0]),
        photos=np.arange(count).astype(str),
        sources=np.full(count, "generated"),
        cameras=np.full(count, "none"),
        short_sides=np.full(count, 200.0),
        jpeg_qualities=np.full(count, 92, np.int16),
    )


def make_recipe(**changes: object) -> Recipe:
    """Return a recipe of three epochs of four steps."""
    recipe = Recipe(
        name="tiny",
        seed=5,
        backbone="resnet50",
        batch_size=4,
        epochs=3,
        optimiser=OptimiserRule(decay="decoupled", head_rate=1e-3, backbone_rate=1e-3, weight_decay=1e-2),
        augment=AugmentRule(warps=1),
    )
    return dataclasses.replace(recipe, **changes)


def make_network(recipe: Recipe, die_after: int | None = None) -> PretextNetwork:
    """Return the tiny network, the same on every call."""
    torch.manual_seed(3)
    return PretextNetwork(TinyExtractor(die_after), recipe.feature_size, centred_heads=recipe.centred_heads)


def train_tiny(run: Path, recipe: Recipe, die_after: int | None = None, **options: object) -> Path:
    """Train the tiny network on the tiny faces."""
    options = {"save_every_steps": 1, "console": Console(quiet=True)} | options
    train, held_out = make_faces(TRAIN_FACES), make_faces(HELD_OUT_FACES, seed=1)
    return train_extractor(make_network(recipe, die_after), train, held_out, recipe, run, TrainOptions(**options))


def read_log(run: Path) -> list[dict[str, float]]:
    """Return the log line of each epoch, without the time."""
    lines = [json.loads(line) for line in (run / "progress.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "seconds"} for line in lines]


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=Path)
    parser.add_argument("--die-after", type=int)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    train_tiny(arguments.run, make_recipe(), arguments.die_after)
