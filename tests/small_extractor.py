"""A small extractor of the very kinds of layers that the real ones have, converted in seconds."""

import torch
from torch import Tensor, nn

from ingest.spec import PreprocessSpec
from training.pretext.backbone import Normalise
from training.recipes import PAPER_FEATURES


class SmallExtractor(nn.Module):
    """Maps [N, 224, 224, 3] crops to [N, D] features: convolutions, a depthwise one, a sum, ReLU6 and a mean."""

    def __init__(self, feature_size: int) -> None:
        super().__init__()
        self.normalise = Normalise(PreprocessSpec())
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 16, 16, bias=False), nn.BatchNorm2d(16), nn.ReLU6())
        self.depthwise = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.ReLU6())
        self.widen = nn.Sequential(nn.Conv2d(16, feature_size, 1), nn.ReLU6())

    def forward(self, crops_NHWC: Tensor) -> Tensor:
        """Return the features."""
        x = self.stem(self.normalise(crops_NHWC))
        features: Tensor = self.widen(x + self.depthwise(x)).mean(dim=(2, 3))
        return features


def make_small_extractor(feature_size: int = PAPER_FEATURES) -> SmallExtractor:
    """Return one with weights of a fixed seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return SmallExtractor(feature_size).eval()
