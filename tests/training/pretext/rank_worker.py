"""One process of a distributed training: `rank_worker.py OUT`, started as by `torchrun`."""

import dataclasses
import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn

from tests.training.pretext.tiny_training import make_recipe, train_tiny
from training.pretext.backward import accumulate_gradients
from training.pretext.batches import Batch
from training.pretext.classes import CAMERA, KIND, KINDS
from training.pretext.distributed import Ranks, join_ranks
from training.pretext.network import PretextNetwork
from training.pretext.ranking import Losses
from training.recipes import PAPER_FEATURES, LossRule, Recipe

FACES = 12
CLASSIFYING = LossRule(camera_weight=0.1, kind_weight=0.2)


class DoubleExtractor(nn.Module):
    """Maps [N, 3, 3, 3] pictures to [N, 768] features in double precision."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.last = nn.Linear(27, PAPER_FEATURES)

    def forward(self, crops_NHWC: torch.Tensor) -> torch.Tensor:
        """Return the features."""
        features: torch.Tensor = self.last(self.norm(crops_NHWC.permute(0, 3, 1, 2)).flatten(1)).tanh()
        return features


def make_double_network(recipe: Recipe, *, frozen_statistics: bool) -> PretextNetwork:
    """Return the network in training mode, the same on every call."""
    torch.manual_seed(1)
    network = PretextNetwork(DoubleExtractor(), recipe.feature_size, centred_heads=recipe.centred_heads)
    if recipe.losses.camera_weight:
        network.add_classifiers({CAMERA: ("a", "b", "c"), KIND: KINDS}, recipe.seed)
    network.double().train()
    network.extractor.norm.train(not frozen_statistics)
    return network


def make_pictures() -> Batch:
    """Return twelve random pictures, ranked and classified in turn, with equal and missing tags."""
    rng = np.random.default_rng(2)
    tags = rng.integers(0, 5, (FACES, 4)).astype(float)
    tags[rng.random((FACES, 4)) < 0.2] = np.nan
    manipulated = (rng.random(FACES) < 0.5).astype(float)
    tags[1::2], manipulated[::2] = np.nan, np.nan
    cameras, kinds = rng.integers(-1, 3, FACES), rng.integers(-1, len(KINDS), FACES)
    arrays = (rng.normal(0, 1, (FACES, 3, 3, 3)), tags, manipulated, cameras, kinds)
    return Batch(*(torch.from_numpy(array) for array in arrays))


def measure_gradients(
    recipe: Recipe, ranks: Ranks, *, frozen_statistics: bool
) -> tuple[Losses, dict[str, torch.Tensor], PretextNetwork]:
    """Return losses, gradients and the network after one batch that the ranks share."""
    network = make_double_network(recipe, frozen_statistics=frozen_statistics)
    extractor = ranks.wrap(network.extractor)
    own = Batch(*(ranks.select_own(getattr(make_pictures(), field.name)) for field in dataclasses.fields(Batch)))
    losses = accumulate_gradients(network, extractor, own, recipe, ranks)
    return losses, {name: value.grad.clone() for name, value in network.named_parameters()}, network


if __name__ == "__main__":
    torch.set_num_threads(1)
    out = Path(sys.argv[1])
    with join_ranks(torch.device("cpu")) as joined:
        for micro_batch in (None, 2):
            cut = make_recipe(centred_heads=True, micro_batch=micro_batch, losses=CLASSIFYING)
            _, gradients, _ = measure_gradients(cut, joined, frozen_statistics=True)
            if joined.rank == 0:
                np.savez(out / f"{micro_batch}.npz", **{name: value.numpy() for name, value in gradients.items()})
        train_tiny(out / "run", make_recipe(micro_batch=1))
