"""What LGrad and DIRE train: a ResNet-50 with one logit, on pictures that a given network computes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from torchvision.models import resnet50

from training.evaluation.detectors.base import DetectorNetwork
from training.evaluation.features.weights import load_strictly, read_state_dict, read_weights, strip_prefix

PARAMETERS = 23_510_081  # of torchvision's ResNet-50 with one output
CROP_PX = 224
INITIAL = "initial"
INITIAL_WEIGHTS = "torchvision's ResNet-50 for ImageNet (resnet50-0676ba61.pth of download.pytorch.org/models)"
LAST_LAYER_STD = 0.02  # in both releases
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class GivenNetworkDetector(DetectorNetwork):
    """Maps pictures with a given network to other pictures, and classifies these.

    The given network is fixed: it is no part of the parameters or of the state dictionary, and it stays in evaluation
    mode. In training mode each picture is cropped to 224 px at random, and half of them are mirrored, by torch's
    generator.

    Args:
        given: the network that computes the pictures.
        test_px: side of the centre that is classified in evaluation mode.
        files: may contain `initial`, ImageNet's weights; without it, the ResNet-50 begins at random.
    """

    def __init__(self, given: nn.Module, test_px: int, files: Mapping[str, Path]) -> None:
        super().__init__()
        self._given = (given.eval().requires_grad_(requires_grad=False),)  # a tuple, so that it is not registered
        self._test_px = test_px
        self.classifier = resnet50(weights=None)
        if INITIAL in files:
            load_resnet50(self.classifier, files[INITIAL], INITIAL_WEIGHTS)
        self.classifier.fc = nn.Linear(self.classifier.fc.in_features, 1)
        nn.init.normal_(self.classifier.fc.weight, std=LAST_LAYER_STD)
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).reshape(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).reshape(3, 1, 1), persistent=False)

    @property
    def given(self) -> nn.Module:
        """The given network."""
        return self._given[0]

    def _apply(self, fn: Any, recurse: bool = True) -> Self:  # noqa: ANN401, FBT001, FBT002 - torch's signature
        self.given._apply(fn, recurse)  # noqa: SLF001 - `to` moves the given network, too
        return super()._apply(fn, recurse)

    def transform(self, inputs: Tensor) -> Tensor:
        """Return pictures [N, 3, S, S] of whole numbers 0..255 for inputs [N, 3, S, S]."""
        raise NotImplementedError

    def forward(self, inputs: Tensor) -> Tensor:
        """See `DetectorNetwork`."""
        pictures = self.transform(inputs)
        pictures = crop_randomly(pictures) if self.training else crop_centre(pictures, self._test_px)
        logits: Tensor = self.classifier((pictures / 255 - self.get_buffer("mean")) / self.get_buffer("std"))
        return logits[:, 0]


def crop_centre(pictures: Tensor, side: int) -> Tensor:
    """Return the central squares of [N, C, H, W] pictures."""
    start = (pictures.shape[-1] - side) // 2
    return pad(pictures, (-start, start + side - pictures.shape[-1]) * 2)


def crop_randomly(pictures: Tensor) -> Tensor:
    """Return a random square of 224 px of each picture, mirrored with probability 0.5."""
    corners = torch.randint(pictures.shape[-1] - CROP_PX + 1, (len(pictures), 2)).tolist()
    mirrored = (torch.rand(len(pictures)) < 0.5).tolist()  # noqa: PLR2004 - half
    parts = [
        picture[:, top : top + CROP_PX, left : left + CROP_PX]
        for picture, (top, left) in zip(pictures, corners, strict=True)
    ]
    return torch.stack([part.flip(-1) if flip else part for part, flip in zip(parts, mirrored, strict=True)])


def load_resnet50(network: nn.Module, path: Path, expected: str) -> None:
    """Load torchvision's layout, as a plain file of arrays or under the key `model`.

    Raises:
        FileNotFoundError: there is no file.
        WrongWeights: keys or shapes differ.
    """
    content = read_weights(path, expected)
    if "model" in content:
        content = read_state_dict(content, "model", path, expected)
    load_strictly(network, strip_prefix(content, ""), path, expected)


def load_classifier(network: DetectorNetwork, path: Path, expected: str) -> None:
    """Load a published ResNet-50 with one output into a `GivenNetworkDetector`; errors as of `load_resnet50`."""
    load_resnet50(network.get_submodule("classifier"), path, expected)
