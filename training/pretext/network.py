"""The network of the pretext tasks: an extractor, and heads that only training uses."""

import math
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from training.data.exif import TAG_NAMES
from training.pretext.backbone import FEATURE_SIZE, Backbone, Normalise
from training.pretext.efficientnet import LiteExtractor, load_imagenet
from training.recipes import Recipe

__all__ = ["FEATURE_SIZE", "MANIPULATION", "Normalise", "PretextNetwork", "build_network", "load_initial"]

MANIPULATION = "manipulation"
SHOWN_KEYS = 6
IMAGENET_ONLY = ("fc.weight", "fc.bias")  # the last layer, for ImageNet's thousand classes


class PretextNetwork(nn.Module):
    """An extractor with the paper's five heads (section II-A): four EXIF rankings, named by tag, and `manipulation`."""

    def __init__(self, extractor: nn.Module, *, centred_heads: bool) -> None:
        super().__init__()
        self.extractor = extractor
        self.centre = nn.BatchNorm1d(FEATURE_SIZE, affine=False) if centred_heads else nn.Identity()
        heads = {name: nn.Linear(FEATURE_SIZE, 1) for name in (*TAG_NAMES, MANIPULATION)}
        self.heads = nn.ModuleDict(heads)
        for head in heads.values():
            nn.init.normal_(head.weight, std=0.1 / math.sqrt(FEATURE_SIZE))
            nn.init.zeros_(head.bias)

    def read_features(self, features_ND: Tensor) -> tuple[Tensor, Tensor]:
        """Map [N, 768] features to EXIF scale values [N, 4] in the order of `TAG_NAMES` and manipulation logits [N]."""
        centred = self.centre(features_ND)
        scale_values = torch.cat([self.heads[name](centred) for name in TAG_NAMES], dim=1)
        return scale_values, self.heads[MANIPULATION](centred)[:, 0]

    def forward(self, crops_NHWC: Tensor) -> tuple[Tensor, Tensor]:
        """Map [N, S, S, 3] crops to EXIF scale values [N, 4] and manipulation logits [N]."""
        return self.read_features(self.extractor(crops_NHWC))


def build_network(recipe: Recipe) -> PretextNetwork:
    """Return the recipe's network, the same on every call.

    EfficientNet-Lite0 has the ImageNet weights of its package. ResNet-50 has random weights, because others need a
    download; `load_initial` loads them from a file.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        extractor: Backbone
        if recipe.backbone == "efficientnet_lite0":
            extractor = LiteExtractor(
                recipe.preprocess, recipe.frozen_blocks, frozen_statistics=recipe.frozen_statistics
            )
            load_imagenet(extractor)
        else:
            from training.pretext.resnet import ResNetExtractor  # noqa: PLC0415 - torchvision takes seconds to import

            extractor = ResNetExtractor(
                recipe.preprocess, recipe.frozen_blocks, frozen_statistics=recipe.frozen_statistics
            )
        return PretextNetwork(extractor, centred_heads=recipe.centred_heads)


def load_initial(network: PretextNetwork, path: Path) -> None:
    """Load initial weights into `network` from a safetensors file; every key is checked.

    Three layouts are accepted: a checkpoint of this project, the output of `import` (with or without heads), and
    torchvision's ResNet-50 names, without ImageNet's last layer.

    Raises:
        ValueError: keys or shapes differ from the network's; the message names them.
        safetensors.SafetensorError: the file is no safetensors file.
    """
    weights = load_file(path)
    if "conv1.weight" in weights:
        weights = {
            f"extractor.trunk.{name}": values
            for name, values in weights.items()
            if name not in IMAGENET_ONLY or len(values) == FEATURE_SIZE
        }
    state = network.state_dict()
    optional = ("heads.", "centre.") if not any(name.startswith("heads.") for name in weights) else ()
    if "extractor.trunk.fc.weight" not in weights:
        optional = (*optional, "extractor.trunk.fc.")
    expected = {name for name in state if not name.startswith(optional)} if optional else set(state)
    given = {name for name in weights if not name.startswith("optimiser.")}
    wrong_shape = {name for name in given & expected if weights[name].shape != state[name].shape}
    if differ := describe_differences(expected - given, given - expected, wrong_shape):
        message = f"{path} does not fit this network: {differ}; choose the recipe's backbone or another file"
        raise ValueError(message)
    network.load_state_dict({name: weights[name] for name in given}, strict=False)


def describe_differences(missing: set[str], unknown: set[str], wrong_shape: set[str]) -> str:
    """Return the differing keys in words, a few of each kind; empty if there are none."""
    parts = []
    for kind, names in (("missing", missing), ("unknown", unknown), ("of another shape", wrong_shape)):
        if names:
            shown = ", ".join(sorted(names)[:SHOWN_KEYS])
            rest = f" and {len(names) - SHOWN_KEYS} more" if len(names) > SHOWN_KEYS else ""
            parts.append(f"{len(names)} {kind} ({shown}{rest})")
    return ", ".join(parts)
