"""Xception by timm, the backbone of FRDM and RECCE: its start, its stages, and its range of inputs.

Both publications start from ImageNet weights. `build` of a design takes them as the file "xception" if it is given; a
training from random weights is not the publication's.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from timm.models.xception import Xception
from torch import Tensor

from training.evaluation.detectors.base import Picture
from training.evaluation.features.weights import load_strictly, read_arrays

IMAGENET = "timm's legacy_xception with ImageNet weights, xception-43020ad28.pth in timm's release v0.1-cadene"


def scale_pixels(picture: Picture) -> NDArray[np.float32]:
    """Return [3, H, W] pixels in -1..1: mean and standard deviation are 0.5."""
    scaled: NDArray[np.float32] = (picture.astype(np.float32) / np.float32(127.5) - 1).transpose(2, 0, 1)
    return np.ascontiguousarray(scaled)


def build_xception(files: Mapping[str, Path], classes: int) -> Xception:
    """Return Xception with `classes` outputs, with the weights of the file "xception" except for another last layer.

    Raises:
        FileNotFoundError: the file is given and does not exist.
        WrongWeights: it contains other weights.
    """
    backbone = Xception()
    if path := files.get("xception"):
        # Files of 2018 lack the counters of batch normalisation, which have no effect here.
        counters = {name: value for name, value in backbone.state_dict().items() if name.endswith("_tracked")}
        load_strictly(backbone, counters | read_arrays(path, IMAGENET), path, IMAGENET)
    if classes != backbone.num_classes:
        backbone.reset_classifier(classes)
    return backbone


def run_first(backbone: Xception, maps: Tensor) -> Tensor:
    """Return [N, 32, S/2, S/2] after the first convolution, for [N, 3, S, S]."""
    first: Tensor = backbone.act1(backbone.bn1(backbone.conv1(maps)))
    return first


def run_second(backbone: Xception, maps: Tensor) -> Tensor:
    """Return [N, 64, S/2, S/2] after the second convolution."""
    second: Tensor = backbone.act2(backbone.bn2(backbone.conv2(maps)))
    return second


def run_blocks(backbone: Xception, first: int, last: int, maps: Tensor) -> Tensor:
    """Return the maps after the blocks `first` to `last`, 1..12."""
    for number in range(first, last + 1):
        maps = backbone.get_submodule(f"block{number}")(maps)
    return maps


def run_last(backbone: Xception, maps: Tensor) -> Tensor:
    """Return [N, 2048, S/32, S/32] after the last two convolutions, before the last ReLU."""
    maps = backbone.act3(backbone.bn3(backbone.conv3(maps)))
    last: Tensor = backbone.bn4(backbone.conv4(maps))
    return last
