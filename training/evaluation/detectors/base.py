"""What a compared detector is, and what a published one states about itself.

A detector gives each picture one number. A picture is the window of one face, cut by the scorer's code with the pixels
of its file (no resampling), or a whole picture; each detector resizes or crops it as its publication does.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from ingest.device import resolve_device
from scorer.errors import Exit, UnlensedError

Picture = NDArray[np.uint8]
"""[H, W, 3] RGB."""
PICTURES_PER_BATCH = 32


class WeightsAbsent(UnlensedError, FileNotFoundError):
    """A detector needs a file that is not there; the message is one sentence and says where it is published."""

    exit_code = Exit.BAD_CONFIGURATION


class Detector(Protocol):
    """Scores pictures.

    Attributes:
        name: on the command line and in cached scores.
        higher_is_generated: whether a high score means generated; a log-likelihood of photographs is the other way up.
    """

    name: str
    higher_is_generated: bool

    def preprocess(self, picture: Picture) -> NDArray[np.float32]:
        """Return what the network gets, [C, S, S]."""

    def score_batch(self, pictures: Sequence[Picture]) -> NDArray[np.float32]:
        """Return [N] scores of N pictures of any sizes."""


@dataclass(frozen=True, slots=True)
class TrainRule:
    """How a publication trains its detector on real and generated faces.

    Attributes:
        optimiser: its kind; "adamw" decays weights decoupled from the gradient.
        rate: learning rate.
        batch_size: pictures of a batch, half of each class.
        steps: number of batches. Publications state epochs over other data; `baseline --steps` sets another number.
        weight_decay, betas, momentum: of the optimiser.
        augment: returns a training picture with the publication's random changes, before `preprocess`.
    """

    optimiser: Literal["adam", "adamw", "sgd"]
    rate: float
    batch_size: int
    steps: int
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    momentum: float = 0.0
    augment: Callable[[Picture, np.random.Generator], Picture] | None = None


class DetectorNetwork(nn.Module):
    """A network that tells real and generated pictures apart; a high logit means generated."""

    def forward(self, inputs: Tensor) -> Tensor:
        """Return [N] logits of [N, C, S, S] inputs."""
        raise NotImplementedError

    def loss(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """Return the training loss; `labels` [N] are 1. for generated pictures and 0. for real ones."""
        return binary_cross_entropy_with_logits(self(inputs), labels)


@dataclass(frozen=True, slots=True)
class Design:
    """A published detector that is trained on real and generated pictures.

    Attributes:
        name: on the command line.
        title: in tables.
        publication: authors, title, venue and year.
        published_at: one sentence: which file of weights is published, and where.
        parameters: the number of parameters of the published network.
        preprocess: returns the network's input [C, S, S] for a picture.
        build: returns the network before training, given the files of `files` and `initial_files` by name.
        load: puts a published file of weights into the network; raises `WrongWeights` where a key differs.
        rule: the publication's training.
        files: further files that the network needs before training, each with one sentence that says what it is and
            where it is published (a CLIP tower, a diffusion network).
        initial_files: the files with which the publication's training begins, described in the same way; training
            begins with random weights where one is not given, and `load` replaces what they contain.
    """

    name: str
    title: str
    publication: str
    published_at: str
    parameters: int
    preprocess: Callable[[Picture], NDArray[np.float32]]
    build: Callable[[Mapping[str, Path]], DetectorNetwork]
    load: Callable[[DetectorNetwork, Path], None]
    rule: TrainRule
    files: Mapping[str, str] = field(default_factory=dict)
    initial_files: Mapping[str, str] = field(default_factory=dict)

    def check_files(self, given: Mapping[str, Path]) -> None:
        """Raise `WeightsAbsent` if one of `files` is not given or does not exist."""
        for name, sentence in self.files.items():
            if name not in given or not given[name].is_file():
                where = f"{given[name]} does not exist" if name in given else f"give {name}=PATH"
                message = f"{self.title} needs a file that is not there ({where}): {sentence}"
                raise WeightsAbsent(message)


@dataclass(slots=True, eq=False)
class NetworkDetector:
    """A `Detector` of a design and a network with weights."""

    design: Design
    network: DetectorNetwork
    device: torch.device = field(default_factory=lambda: torch.device(resolve_device("auto").kind))
    higher_is_generated: bool = True
    name: str = field(init=False)

    def __post_init__(self) -> None:
        self.name = self.design.name
        self.network.eval().to(self.device)

    def preprocess(self, picture: Picture) -> NDArray[np.float32]:
        """See `Detector`."""
        return self.design.preprocess(picture)

    def score_batch(self, pictures: Sequence[Picture]) -> NDArray[np.float32]:
        """See `Detector`."""
        parts = [np.empty(0, np.float32)]
        with torch.inference_mode():
            for start in range(0, len(pictures), PICTURES_PER_BATCH):
                inputs = np.stack(
                    [self.preprocess(picture) for picture in pictures[start : start + PICTURES_PER_BATCH]]
                )
                logits = self.network(torch.from_numpy(inputs).to(self.device))
                parts.append(logits.float().cpu().numpy())
        return np.concatenate(parts)
