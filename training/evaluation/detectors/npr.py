"""NPR: relations of neighbouring pixels (Tan et al., CVPR 2024).

Input: the picture resized to 256 x 256 px (Pillow's bilinear kernel), with ImageNet's normalisation. The network sees
the difference of each pixel to the first one of its square of 2 x 2 px: the traces of the last up-sampling. It is a
ResNet-50 without its last two layers, with a first convolution of 3 x 3.

What differs: pictures are always resized, as for the publication's Tables 1, 3, 4 and 5 (Table 2 has them as they are).
In training, the random crop has one place for all pictures of a batch, and the rate does not fall; the published one
is multiplied by 0.9 every ten epochs.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn
from torchvision.models import resnet50
from torchvision.transforms import RandomCrop
from torchvision.transforms.functional import normalize, to_tensor

from training.evaluation.detectors.base import Design, DetectorNetwork, Picture, TrainRule
from training.evaluation.features.weights import load_weights

SIZE, TRAINED_SIZE = 256, 224
SQUARE = 2
MIRRORED_SHARE = 0.5
CHANNELS, FEATURES = 64, 512
WEIGHTS = "NPR.pth or model_epoch_last_3090.pth of github.com/chuangchuangtan/NPR-DeepfakeDetection"


class NPR(DetectorNetwork):
    """The first two layers of a ResNet-50 on the relations of neighbouring pixels; parts have their published names."""

    def __init__(self) -> None:
        super().__init__()
        trunk = resnet50(weights=None)
        self.conv1 = nn.Conv2d(3, CHANNELS, 3, stride=2, padding=1, bias=False)
        nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out", nonlinearity="relu")
        self.bn1, self.relu, self.maxpool = trunk.bn1, trunk.relu, trunk.maxpool
        self.layer1, self.layer2 = trunk.layer1, trunk.layer2
        self.fc1 = nn.Linear(FEATURES, 1)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return [N] logits of [N, 3, S, S] inputs; S is even."""
        maps = self.maxpool(self.relu(self.bn1(self.conv1(relate_neighbours(inputs) * 2 / 3))))
        logits: Tensor = self.fc1(self.layer2(self.layer1(maps)).mean((2, 3)))
        return logits.squeeze(1)

    def loss(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """Return the cross-entropy for a random crop of 224 px, whose place is the same in all pictures."""
        return super().loss(RandomCrop(TRAINED_SIZE)(inputs), labels)


def relate_neighbours(inputs: Tensor) -> Tensor:
    """Return the difference of each pixel to the first pixel of its square, [N, C, S, S]."""
    first = inputs[:, :, ::SQUARE, ::SQUARE]
    return inputs - first.repeat_interleave(SQUARE, 2).repeat_interleave(SQUARE, 3)


def preprocess(picture: Picture) -> NDArray[np.float32]:
    """Return the picture at 256 x 256 px, normalised: [3, 256, 256]."""
    resized = Image.fromarray(picture).resize((SIZE, SIZE), Image.Resampling.BILINEAR)
    pixels: NDArray[np.float32] = normalize(to_tensor(resized), IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD).numpy()
    return pixels


def augment(picture: Picture, rng: np.random.Generator) -> Picture:
    """Return the picture, half of them mirrored."""
    return np.ascontiguousarray(picture[:, ::-1]) if rng.random() < MIRRORED_SHARE else picture


def build(_files: Mapping[str, Path]) -> NPR:
    """Return the network with random weights, with which the publication's training begins."""
    return NPR()


DESIGN = Design(
    name="npr",
    title="NPR",
    publication="Tan et al., Rethinking the Up-Sampling Operations in CNN-based Generative Network for Generalizable "
    "Deepfake Detection, CVPR 2024",
    published_at=f"Published weights are {WEIGHTS}.",
    parameters=1_437_761,
    preprocess=preprocess,
    build=build,
    load=partial(load_weights, expected=WEIGHTS),
    # 50 epochs of 144,000 pictures.
    rule=TrainRule("adam", rate=2e-4, batch_size=32, steps=225_000, augment=augment),
)
