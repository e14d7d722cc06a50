"""Small pictures of ten sources and two generators, made here, and two small detectors."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from scipy.ndimage import gaussian_filter
from torch import Tensor

from scorer.commands.progress import Progress
from training.evaluation.compare.run import ComparedFaces
from training.evaluation.detectors.base import Design, DetectorNetwork, NetworkDetector, Picture, TrainRule
from training.evaluation.detectors.windows import CutRule, Windows, cut_windows

SOURCES, PICTURES = 10, 12
ODD_NAME = "<b>odd&name"


def draw_picture(seed: int, *, grid: float = 0.0, side: int = 136) -> Image.Image:
    """Return smooth random colours; `grid` grey levels of a checkerboard mean generated."""
    rng = np.random.default_rng(seed)
    smooth = gaussian_filter(rng.normal(size=(side, side, 3)), (3, 3, 0)) * 250 + 128
    board = np.indices((side, side)).sum(axis=0) % 2 * 2.0 - 1
    pixels = smooth + grid * board[..., None] + rng.normal(0, 1, (side, side, 3))
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


@pytest.fixture(scope="package")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder `real` with a folder a source, and two generators, one with small pictures."""
    folder = tmp_path_factory.mktemp("pictures")
    for source in range(SOURCES):
        (folder / "real" / f"source{source}").mkdir(parents=True)
        for picture in range(PICTURES):
            draw_picture(1000 * source + picture).save(
                folder / "real" / f"source{source}" / f"{picture}.png", compress_level=0
            )
    for name, grid, side, first in (("clear", 20.0, 136, 50_000), (ODD_NAME, 2.0, 100, 60_000)):
        (folder / name).mkdir()
        for picture in range(30):
            draw_picture(first + picture, grid=grid, side=side).save(folder / name / f"{picture}.png", compress_level=0)
    return folder


@dataclass(frozen=True, slots=True)
class Cutter:
    """Cuts whole pictures, which need no face."""

    root: Path
    cache: Path

    def cut(self, folder: Path) -> Windows:
        """Return the windows of a folder."""
        rule = CutRule(self.root / "model_repository", part="image", threads=1)
        return cut_windows(folder, rule, self.cache, Progress("cutting", None, console=Console(file=io.StringIO())))


@pytest.fixture(scope="package")
def cutter(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Cutter:
    """Cuts whole pictures into one cache."""
    return Cutter(root, tmp_path_factory.mktemp("windows"))


@pytest.fixture(scope="package")
def faces(folders: Path, cutter: Cutter) -> ComparedFaces:
    """The windows of all pictures."""
    return ComparedFaces(
        cutter.cut(folders / "real"), {name: cutter.cut(folders / name) for name in ("clear", ODD_NAME)}
    )


class Grids(DetectorNetwork):
    """One fixed filter: the mean distance of a pixel from its neighbours, above a level."""

    def __init__(self) -> None:
        super().__init__()
        kernel = torch.tensor([[0.0, -1, 0], [-1, 4, -1], [0, -1, 0]]) / 4
        self.kernel = torch.nn.Parameter(kernel.expand(3, 1, 3, 3).clone())
        self.level = torch.nn.Parameter(torch.tensor(0.03))

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the logits."""
        detail = torch.nn.functional.conv2d(inputs, self.kernel, groups=3).abs().mean(dim=(1, 2, 3))
        return 100 * (detail - self.level)


def crop_centre(picture: Picture) -> np.ndarray:
    """Return the middle 64 px, 0 to 1."""
    top, left = ((side - 64) // 2 for side in picture.shape[:2])
    return np.ascontiguousarray(picture[top : top + 64, left : left + 64].transpose(2, 0, 1), np.float32) / 255


DESIGN = Design(
    name="grids",
    title="Grids",
    publication="made for this test",
    published_at="nowhere",
    parameters=28,
    preprocess=crop_centre,
    build=lambda _files: Grids(),
    load=lambda _network, _path: None,
    rule=TrainRule("adam", 1e-3, 8, 1),
)


class Smoothness:
    """A one-class score: minus the mean distance of neighbours; a low one means generated."""

    name, higher_is_generated = "bundle", False

    def __init__(self) -> None:
        self.pictures = 0

    def preprocess(self, picture: Picture) -> np.ndarray:
        """Return the picture as numbers."""
        return picture.astype(np.float32).transpose(2, 0, 1)

    def score_batch(self, pictures: Sequence[Picture]) -> np.ndarray:
        """Return the scores, and count the pictures."""
        self.pictures += len(pictures)
        return np.array([-np.abs(np.diff(self.preprocess(each), axis=2)).mean() for each in pictures], np.float32)


@pytest.fixture(scope="package")
def grids() -> NetworkDetector:
    """A detector of a design and a network."""
    return NetworkDetector(DESIGN, Grids(), torch.device("cpu"))


@pytest.fixture(scope="package")
def smoothness() -> Smoothness:
    """A detector with a likelihood."""
    return Smoothness()
