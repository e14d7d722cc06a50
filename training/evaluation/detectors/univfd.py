"""UnivFD: a linear layer on CLIP's image embedding (Ojha, Li and Lee, CVPR 2023).

Input: the central 224 px of the picture, which is not resized; a smaller picture is surrounded with black, as
torchvision's centre crop does in the published evaluation. CLIP's normalisation. The tower is OpenAI's ViT-L/14 and
is never trained; the published file contains the linear layer only.

What differs: CLIP's text tower, which the publication's network contains and never uses, is left out. In training,
JPEG is Pillow's only (the publication chooses between Pillow and OpenCV), blur is OpenCV's, and the rate does not fall.
"""

from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from open_clip import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from open_clip.transformer import VisionTransformer
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms.functional import center_crop, normalize, resize, to_tensor

from training.data.copies import encode
from training.evaluation.detectors.base import Design, DetectorNetwork, Picture, TrainRule
from training.evaluation.features.networks import build_tower
from training.evaluation.features.weights import WrongWeights, load_weights, read_weights, strip_prefix

SIZE = 224
EMBEDDING = 768  # of OpenAI's ViT-L/14
# In training; the end of a range is excluded. The published blur begins at 0, which OpenCV refuses.
RESIZED_PX, CHANGED_SHARE, BLUR_PX, QUALITIES = 256, 0.5, (0.01, 3.0), (30, 101)
TOWER = (
    "OpenAI's ViT-L/14 as open_clip publishes it (open_clip_model.safetensors or open_clip_pytorch_model.bin of "
    "huggingface.co/timm/vit_large_patch14_clip_224.openai)"
)
LINEAR_LAYER = "pretrained_weights/fc_weights.pth of github.com/WisconsinAIVision/UniversalFakeDetect"


class UnivFD(DetectorNetwork):
    """A trained linear layer on a frozen image tower."""

    def __init__(self, tower: VisionTransformer) -> None:
        super().__init__()
        self.tower = tower.requires_grad_(requires_grad=False)
        self.linear = nn.Linear(EMBEDDING, 1)
        nn.init.normal_(self.linear.weight, std=0.02)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return [N] logits of [N, 3, 224, 224] inputs."""
        with torch.no_grad():
            embedding = self.tower(inputs)
        logits: Tensor = self.linear(embedding)
        return logits.squeeze(1)


def preprocess(picture: Picture) -> NDArray[np.float32]:
    """Return the central 224 px, surrounded with black if the picture is smaller, normalised: [3, 224, 224]."""
    crop = to_tensor(center_crop(Image.fromarray(picture), [SIZE, SIZE]))
    pixels: NDArray[np.float32] = normalize(crop, OPENAI_DATASET_MEAN, OPENAI_DATASET_STD).numpy()
    return pixels


def augment(picture: Picture, rng: np.random.Generator) -> Picture:
    """Return 224 px of the resized picture, half of them blurred, half compressed, half mirrored."""
    pixels = np.asarray(resize(Image.fromarray(picture), RESIZED_PX))
    if rng.random() < CHANGED_SHARE:
        pixels = cv2.GaussianBlur(pixels, (0, 0), rng.uniform(*BLUR_PX)).astype(np.uint8, copy=False)
    if rng.random() < CHANGED_SHARE:
        pixels = encode(pixels, "JPEG", int(rng.integers(*QUALITIES)))
    top, left = (int(rng.integers(side - SIZE + 1)) for side in pixels.shape[:2])
    pixels = pixels[top : top + SIZE, left : left + SIZE]
    return np.ascontiguousarray(pixels[:, ::-1] if rng.random() < CHANGED_SHARE else pixels)


def build(files: Mapping[str, Path]) -> UnivFD:
    """Return the network with CLIP's tower and a random linear layer.

    Raises:
        FileNotFoundError: there is no file `clip`.
        WrongWeights: it contains something other than a vision transformer with 768 outputs.
    """
    path = files["clip"]
    tower = build_tower(strip_prefix(read_weights(path, TOWER), "visual."), path, TOWER)
    if tower.output_dim != EMBEDDING:
        message = f"{path} is an image tower with {tower.output_dim} outputs instead of {EMBEDDING}: use {TOWER}"
        raise WrongWeights(message)
    return UnivFD(tower)


def load(network: DetectorNetwork, path: Path) -> None:
    """Put the published linear layer into the network.

    Raises:
        FileNotFoundError: there is no file.
        WrongWeights: it contains something else.
    """
    load_weights(network.get_submodule("linear"), path, LINEAR_LAYER)


DESIGN = Design(
    name="univfd",
    title="UnivFD",
    publication="Ojha, Li and Lee, Towards Universal Fake Image Detectors that Generalize Across Generative Models, "
    "CVPR 2023",
    published_at=f"The linear layer is published as {LINEAR_LAYER}.",
    parameters=303_966_977,
    preprocess=preprocess,
    build=build,
    load=load,
    # At most 100 epochs of 720,000 pictures; the publication stops when the accuracy no longer rises.
    rule=TrainRule("adamw", rate=1e-4, batch_size=256, steps=281_250, augment=augment),
    files={"clip": f"CLIP's image tower should be {TOWER}."},
)
