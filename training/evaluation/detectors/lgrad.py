"""LGrad (Tan, Zhao, Wei, Gu and Wei, "Learning on Gradients", CVPR 2023).

The gradient of a given network's output with respect to the picture, scaled to 0..255, is classified by a ResNet-50.

Input: the picture stretched to 256 px (bilinear), as in the release's `gen_imggrad.py`. The given network is StyleGAN's
discriminator for bedrooms (the release's), ProGAN's for 256 px in the same layout, or torchvision's ResNet-50 for
ImageNet; the layout of the file decides. Discriminators get -1..1, the ResNet-50 gets ImageNet's normalisation. Other
given networks of the paper (VGG, segmentation, video) are not supported, nor is a TorchScript file.

The release stores gradients as 8-bit PNG files, which the rounding here reproduces, and computes them one picture at a
time: so the discriminators' statistics over a batch are those of one picture. In training, gradients are cropped to
224 px and mirrored at random; in tests the release classifies all 256 px.

What differs: the release multiplies the learning rate by 0.8 every 10 epochs, here it is constant. Its training begins
with ImageNet's weights, which the file `initial` gives.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torchvision.models import resnet50

from training.data.copies import rescale
from training.evaluation.detectors.base import Design, Picture, TrainRule
from training.evaluation.detectors.gan_discriminator import SIDE_PX, Discriminator
from training.evaluation.detectors.given_network import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    INITIAL,
    INITIAL_WEIGHTS,
    PARAMETERS,
    GivenNetworkDetector,
    load_classifier,
)
from training.evaluation.features.weights import WrongWeights, load_strictly, read_arrays

GIVEN_WEIGHTS = (
    "the discriminator that github.com/chuangchuangtan/LGrad links (karras2019stylegan-bedrooms-256x256_discriminator"
    ".pth), ProGAN's for 256 px in the same layout, or torchvision's ResNet-50 (resnet50-0676ba61.pth)"
)
PUBLISHED = (
    "LGrad's ResNet-50 (for example LGrad-4class-Trainon-Progan_car_cat_chair_horse.pth), linked from the README of "
    "github.com/chuangchuangtan/LGrad"
)
HALF = (0.5, 0.5, 0.5)


class LGrad(GivenNetworkDetector):
    """Classifies gradients of a given network.

    Args:
        given: maps normalised pictures [N, 3, 256, 256] to outputs, which are summed.
        mean, std: of the given network's normalisation of 0..1.
        files: see `GivenNetworkDetector`.
    """

    def __init__(
        self,
        given: nn.Module,
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
        files: Mapping[str, Path],
    ) -> None:
        super().__init__(given, SIDE_PX, files)
        self.register_buffer("given_mean", torch.tensor(mean).reshape(3, 1, 1), persistent=False)
        self.register_buffer("given_std", torch.tensor(std).reshape(3, 1, 1), persistent=False)

    def transform(self, inputs: Tensor) -> Tensor:
        """Return the gradients at inputs of 0..1, each scaled from its least to its largest value."""
        with torch.inference_mode(mode=False), torch.enable_grad():
            leaf = (inputs.clone() - self.get_buffer("given_mean")) / self.get_buffer("given_std")
            leaf = leaf.detach().requires_grad_()
            (gradients,) = torch.autograd.grad(self.given(leaf).sum(), leaf)
        gradients = gradients - gradients.amin((1, 2, 3), keepdim=True)
        largest = gradients.amax((1, 2, 3), keepdim=True)
        return (gradients / torch.where(largest > 0, largest, 1) * 255).round()


def preprocess(picture: Picture) -> NDArray[np.float32]:
    """Return the picture as [3, 256, 256] of 0..1."""
    resized = rescale(picture, SIDE_PX, Image.Resampling.BILINEAR)
    return resized.transpose(2, 0, 1).astype(np.float32) / np.float32(255)


def build(files: Mapping[str, Path]) -> LGrad:
    """Return the network over the given network in `files`.

    Raises:
        FileNotFoundError: a file does not exist.
        WrongWeights: the given network has none of the supported layouts.
    """
    path = files["given"]
    weights = read_arrays(path, GIVEN_WEIGHTS)
    if "conv1.weight" in weights:
        classifier = resnet50(weights=None)
        load_strictly(classifier, weights, path, GIVEN_WEIGHTS)
        return LGrad(classifier, IMAGENET_MEAN, IMAGENET_STD, files)
    discriminator = Discriminator(stylegan="layer1.blur.kernel" in weights)
    load_strictly(discriminator, weights, path, GIVEN_WEIGHTS)
    if discriminator.get_buffer("lod") != 0:
        message = f"{path} is of an unfinished progressive training (lod is not 0); it should be {GIVEN_WEIGHTS}"
        raise WrongWeights(message)
    return LGrad(discriminator, HALF, HALF, files)


DESIGN = Design(
    name="lgrad",
    title="LGrad",
    publication=(
        "Tan, Zhao, Wei, Gu and Wei, Learning on Gradients: Generalized Artifacts Representation for GAN-Generated "
        "Images Detection, CVPR 2023"
    ),
    published_at=f"It should be {PUBLISHED}.",
    parameters=PARAMETERS,
    preprocess=preprocess,
    build=build,
    load=partial(load_classifier, expected=PUBLISHED),
    # 100 epochs of 36,000 pictures: one class of the publication's training set.
    rule=TrainRule("adam", rate=5e-4, batch_size=16, steps=225_000),
    files={"given": f"the network whose gradients are classified is {GIVEN_WEIGHTS}."},
    initial_files={INITIAL: f"The first weights should be {INITIAL_WEIGHTS}."},
)
