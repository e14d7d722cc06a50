"""A tiny detector, and pictures of two classes that are easily told apart.

Run as a program, it trains in a process of its own: `tiny_detector.py RUN FILTERS [--die-after N]`.
"""

import argparse
import os
import signal
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from training.evaluation.detectors.base import Design, DetectorNetwork, Picture, TrainRule
from training.evaluation.detectors.pictures import TrainingPictures
from training.evaluation.detectors.train_baseline import BaselineOptions, train_baseline
from training.evaluation.features.weights import load_strictly, read_weights

SIDE, CROP, STEPS, BATCH = 256, 64, 12, 5


def draw_real(rng: np.random.Generator) -> Picture:
    """Return a picture [256, 256, 3] of a sensor: fine noise under a colour mosaic that was interpolated."""
    colours = draw_colours(rng) + rng.normal(0, 25, (SIDE, SIDE, 3))
    mosaic = np.empty((SIDE, SIDE))
    for row, column, channel in ((0, 0, 0), (0, 1, 1), (1, 0, 1), (1, 1, 2)):
        mosaic[row::2, column::2] = colours[row::2, column::2, channel]
    return cv2.cvtColor(np.clip(mosaic, 0, 255).astype(np.uint8), cv2.COLOR_BayerBG2BGR)


def draw_generated(rng: np.random.Generator) -> Picture:
    """Return a picture [256, 256, 3] whose noise was enlarged eight times, as a decoder without care does."""
    coarse = rng.normal(0, 25, (SIDE // 8, SIDE // 8, 3)).repeat(8, 0).repeat(8, 1)
    return np.clip(draw_colours(rng) + coarse, 0, 255).astype(np.uint8)


def draw_colours(rng: np.random.Generator) -> NDArray[np.float64]:
    """Return smooth colours, which both classes share."""
    small = rng.uniform(60, 195, (4, 4, 3)).astype(np.float32)
    return cv2.resize(small, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC).astype(np.float64)


def draw_pictures(train: int, held_out: int, seed: int = 0) -> TrainingPictures:
    """Return pictures of both classes."""
    rng = np.random.default_rng(seed)
    real = [draw_real(rng) for _ in range(train + held_out)]
    generated = [draw_generated(rng) for _ in range(train + held_out)]
    facts = {"generator": "enlarged noise"}
    return TrainingPictures(
        real[:train], generated[:train], real[train:], generated[train:], f"{seed} {train} {held_out}", facts
    )


class TinyNetwork(DetectorNetwork):
    """Given filters and a trained layer; kills its process after a number of training passes."""

    def __init__(self, filters: Tensor) -> None:
        super().__init__()
        self.filters = nn.Conv2d(3, len(filters), 3, bias=False).requires_grad_(requires_grad=False)
        self.filters.weight.copy_(filters)
        self.norm = nn.BatchNorm2d(len(filters))
        self.dropout = nn.Dropout(0.2)
        self.linear = nn.Linear(len(filters), 1)
        self.passes, self.die_after = 0, None

    def forward(self, inputs: Tensor) -> Tensor:
        """Return [N] logits of [N, 3, 64, 64] inputs."""
        self.passes += self.training
        if self.die_after is not None and self.passes > self.die_after:
            os.kill(os.getpid(), signal.SIGKILL)
        pooled = self.norm(self.filters(inputs)).abs().mean((2, 3))
        logits: Tensor = self.linear(self.dropout(pooled))
        return logits.squeeze(1)


def preprocess(picture: Picture) -> NDArray[np.float32]:
    """Return the top left corner, repeated if the picture is smaller: [3, 64, 64]."""
    corner = np.pad(picture[:CROP, :CROP], [(0, max(0, CROP - side)) for side in picture.shape[:2]] + [(0, 0)], "wrap")
    return corner.transpose(2, 0, 1).astype(np.float32) / 255


def augment(picture: Picture, rng: np.random.Generator) -> Picture:
    """Return the picture from a random corner on."""
    top, left = rng.integers(32, size=2)
    return picture[top:, left:]


def build(files: Mapping[str, Path]) -> TinyNetwork:
    """Return the network with the given filters."""
    with torch.no_grad():
        return TinyNetwork(load_file(files["filters"])["filters"])


def load(network: DetectorNetwork, path: Path) -> None:
    """Put a published linear layer into the network."""
    load_strictly(network.get_submodule("linear"), read_weights(path, "a tiny layer"), path, "a tiny layer")


DESIGN = Design(
    name="tiny",
    title="Tiny",
    publication="this test",
    published_at="The layer is published nowhere.",
    parameters=8 * 27 + 16 + 9,
    preprocess=preprocess,
    build=build,
    load=load,
    rule=TrainRule("adam", rate=3e-2, batch_size=BATCH, steps=STEPS, augment=augment),
    files={"filters": "The filters are published nowhere."},
)


def write_filters(folder: Path) -> dict[str, Path]:
    """Write the file that the design needs."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "filters.safetensors"
    save_file({"filters": torch.randn(8, 3, 3, 3, generator=torch.Generator().manual_seed(0))}, path)
    return {"filters": path}


def train_tiny(run: Path, filters: Path, die_after: int | None = None, **options: Any) -> dict[str, Any]:  # noqa: ANN401 - of any type
    """Train the tiny detector, with a checkpoint after each step; return the content of baseline.json."""

    def build_mortal(files: Mapping[str, Path]) -> TinyNetwork:
        network = build(files)
        network.die_after = die_after
        return network

    options = {"files": {"filters": filters}, "save_every_s": 0.0, "console": Console(quiet=True)} | options
    return train_baseline(replace(DESIGN, build=build_mortal), draw_pictures(8, 6), run, BaselineOptions(**options))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=Path)
    parser.add_argument("filters", type=Path)
    parser.add_argument("--die-after", type=int)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    train_tiny(arguments.run, arguments.filters, arguments.die_after)
