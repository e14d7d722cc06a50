"""Gram-Net: a ResNet-18 with the Gram matrices of its maps (Liu, Qi and Torr, CVPR 2020).

Input: the picture resized to 512 x 512 px (OpenCV's bilinear kernel), blue, green and red in this order, values of
0..255 without normalisation, as in the published code. Six Gram blocks describe the texture of the input, of the first
convolution, of the pooling and of three layers; the classifier gets them beside the pooled maps.

What differs: the published network returns the log-probabilities of (generated, real); here the logit is their
difference, whose cross-entropy is the published loss.
"""

from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torchvision.models import resnet18

from training.evaluation.detectors.base import Design, DetectorNetwork, Picture, TrainRule
from training.evaluation.features.weights import load_strictly, read_arrays

SIZE = 512
REDUCED_PX = (64, 257)  # in training; the last is excluded
MAPS, TEXTURES, DESCRIPTION = (3, 64, 64, 64, 128, 256), 32, 32  # the maps described, and the sizes of a Gram block
HIDDEN, DROPPED = 512, 0.5
# The published names of the parts of each Gram block, in the order of the maps.
BLOCKS = (
    ("conv_interi_0", "gi_fc1", "gi_fc2"),
    ("conv_inter0_0", "g0_fc1", "g0_fc2"),
    ("conv_inter1_0", "g_fc1r", "g_fc2r"),
    ("conv_inter2_0", "g2_fc1", "g2_fc2"),
    ("conv_inter3_0", "g3_fc1", "g3_fc2"),
    ("conv_inter4_0", "g4_fc1", "g4_fc2"),
)
BLOCK_PARTS = ("textures", "reduce", "describe")
WEIGHTS = (
    "the `state_dict()`, saved with torch.save, of stylegan-ffhq.pth, stylegan-celeba.pth or pggan-celeba.pth, linked "
    "from the README of github.com/liuzhengzhe/Global_Texture_Enhancement_for_Fake_Face_Detection_in_the-Wild; the "
    "linked files themselves are pickled modules, which contain code and are not read"
)
IMAGENET = "torchvision's ResNet-18 for ImageNet (resnet18-5c106cde.pth or resnet18-f37072fd.pth)"


class GramBlock(nn.Module):
    """Describes the correlations between the textures of some maps by 32 numbers."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.textures = convolve(channels, TEXTURES, stride=1)
        self.reduce = convolve(1, DESCRIPTION // 2, stride=2)
        self.describe = convolve(DESCRIPTION // 2, DESCRIPTION, stride=2)

    def forward(self, maps: Tensor) -> Tensor:
        """Return [N, 32] of [N, C, H, W]."""
        textures = self.textures(maps).flatten(2)
        gram = textures @ textures.mT / textures[0].numel()
        described: Tensor = self.describe(self.reduce(gram.unsqueeze(1)))
        return described.mean((2, 3))


class GramNet(DetectorNetwork):
    """A ResNet-18 with a Gram block on its input and on each of five intermediate maps."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = resnet18(weights=None)
        self.trunk.fc = nn.Identity()
        self.grams = nn.ModuleList(map(GramBlock, MAPS))
        self.scale = nn.Parameter(torch.ones(1))
        self.classify = nn.Sequential(
            nn.Linear(HIDDEN + len(MAPS) * DESCRIPTION, HIDDEN), nn.ReLU(), nn.Dropout(DROPPED), nn.Linear(HIDDEN, 2)
        )

    def forward(self, inputs: Tensor) -> Tensor:
        """Return [N] logits of [N, 3, S, S] inputs of 0..255."""
        trunk = self.trunk
        first = trunk.relu(trunk.bn1(trunk.conv1(inputs)))
        maps = [inputs, first, trunk.maxpool(first)]
        for layer in (trunk.layer1, trunk.layer2, trunk.layer3):
            maps.append(layer(maps[-1]))
        pooled = trunk.layer4(maps[-1]).mean((2, 3))
        described = [self.scale * gram(each) for gram, each in zip(self.grams, maps, strict=True)]
        generated, real = self.classify(torch.cat([pooled, *described], 1)).unbind(1)
        logits: Tensor = generated - real
        return logits


def convolve(channels: int, outputs: int, stride: int) -> nn.Sequential:
    """Return a 3 x 3 convolution with batch normalisation and ReLU."""
    convolution = nn.Conv2d(channels, outputs, 3, stride=stride, padding=1, bias=False)
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())


def preprocess(picture: Picture) -> NDArray[np.float32]:
    """Return the picture at 512 x 512 px as blue, green and red of 0..255: [3, 512, 512]."""
    resized = cv2.resize(picture, (SIZE, SIZE), interpolation=cv2.INTER_LINEAR)
    return np.ascontiguousarray(resized[:, :, ::-1].transpose(2, 0, 1), np.float32)


def augment(picture: Picture, rng: np.random.Generator) -> Picture:
    """Return the picture as a square of 64 to 256 px; `preprocess` enlarges it."""
    side = int(rng.integers(*REDUCED_PX))
    return np.asarray(cv2.resize(picture, (side, side), interpolation=cv2.INTER_LINEAR), np.uint8)


def build(files: Mapping[str, Path]) -> GramNet:
    """Return the network; its ResNet has the weights of `imagenet` if this file is given.

    Raises:
        FileNotFoundError: the given file does not exist.
        WrongWeights: it contains something else.
    """
    network = GramNet()
    if path := files.get("imagenet"):
        weights = read_arrays(path, IMAGENET)
        trunk = {name: value for name, value in weights.items() if not name.startswith("fc.")}
        load_strictly(network.trunk, trunk, path, IMAGENET)
    return network


def load(network: DetectorNetwork, path: Path) -> None:
    """Put published weights into the network.

    Raises:
        FileNotFoundError: there is no file.
        WrongWeights: it contains something else.
    """
    weights = read_arrays(path, WEIGHTS)
    load_strictly(network, {rename(name): value for name, value in weights.items()}, path, WEIGHTS)


def rename(published: str) -> str:
    """Return this module's name of a published array; an unknown name becomes one of the ResNet, which has no such."""
    part, _, rest = published.partition(".")
    for number, names in enumerate(BLOCKS):
        if part in names:
            return f"grams.{number}.{BLOCK_PARTS[names.index(part)]}.{rest}"
    if part == "fcnewr":
        return f"classify.{rest}"
    return "scale" if published == "scale.scale" else f"trunk.{published}"


DESIGN = Design(
    name="gramnet",
    title="GramNet",
    publication="Liu, Qi and Torr, Global Texture Enhancement for Fake Face Detection in the Wild, CVPR 2020",
    published_at=f"Published weights are {WEIGHTS}.",
    parameters=11_734_723,
    preprocess=preprocess,
    build=build,
    load=load,
    # Five epochs of 20,000 faces.
    rule=TrainRule("adam", rate=1e-5, batch_size=16, steps=6250, weight_decay=1e-4, augment=augment),
    initial_files={"imagenet": f"The first weights of the ResNet should be {IMAGENET}."},
)
