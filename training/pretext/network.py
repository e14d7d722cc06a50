"""The network of the pretext tasks: an extractor, and heads that only training uses."""

import math
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from ingest.exif import TAG_NAMES
from training.pretext.efficientnet import LiteExtractor, load_imagenet
from training.recipes import Recipe

MANIPULATION = "manipulation"
CLASSIFIERS = "classifiers."
SHOWN_KEYS = 6
IMAGENET_ONLY = ("fc.weight", "fc.bias")  # the last layer, for ImageNet's thousand classes


class PretextNetwork(nn.Module):
    """An extractor with the paper's five heads (section II-A): four EXIF rankings, named by tag, and `manipulation`.

    Attributes:
        feature_size: number of features, D.
        classes: the classes of each classifier; empty until `add_classifiers`.
    """

    def __init__(self, extractor: nn.Module, feature_size: int, *, centred_heads: bool) -> None:
        super().__init__()
        self.extractor = extractor
        self.feature_size = feature_size
        self.classes: dict[str, tuple[str, ...]] = {}
        self.classifiers = nn.ModuleDict()
        self.centre = nn.BatchNorm1d(feature_size, affine=False) if centred_heads else nn.Identity()
        heads = {name: nn.Linear(feature_size, 1) for name in (*TAG_NAMES, MANIPULATION)}
        self.heads = nn.ModuleDict(heads)
        for head in heads.values():
            nn.init.normal_(head.weight, std=0.1 / math.sqrt(feature_size))
            nn.init.zeros_(head.bias)

    def add_classifiers(self, classes: dict[str, tuple[str, ...]], seed: int) -> None:
        """Add a head for each task of `classes`, the same on every call; see `training.pretext.classes`."""
        self.classes = classes
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.classifiers = nn.ModuleDict(
                {task: nn.Linear(self.feature_size, len(classes[task])) for task in classes}
            )

    def read_features(self, features_ND: Tensor) -> tuple[Tensor, Tensor]:
        """Map [N, D] features to EXIF scale values [N, 4] in the order of `TAG_NAMES` and manipulation logits [N]."""
        return self.read_centred(self.centre(features_ND))

    def read_centred(self, centred_ND: Tensor) -> tuple[Tensor, Tensor]:
        """Map the features after `centre` to the outputs of `read_features`."""
        scale_values = torch.cat([self.heads[name](centred_ND) for name in TAG_NAMES], dim=1)
        return scale_values, self.heads[MANIPULATION](centred_ND)[:, 0]

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
        extractor: nn.Module
        if recipe.backbone == "efficientnet_lite0":
            extractor = LiteExtractor(
                recipe.preprocess,
                recipe.frozen_blocks,
                recipe.feature_size,
                frozen_statistics=recipe.frozen_statistics,
            )
            load_imagenet(extractor)
        else:
            from training.pretext.resnet import ResNetExtractor  # noqa: PLC0415 - torchvision takes seconds to import

            extractor = ResNetExtractor(
                recipe.preprocess,
                recipe.frozen_blocks,
                recipe.feature_size,
                frozen_statistics=recipe.frozen_statistics,
            )
        return PretextNetwork(extractor, recipe.feature_size, centred_heads=recipe.centred_heads)


def load_initial(network: PretextNetwork, path: Path) -> None:
    """Load initial weights into `network` from a safetensors file; every key is checked.

    Three layouts are accepted: a checkpoint of this project, the output of `import` (with or without heads), and
    torchvision's ResNet-50 names, without ImageNet's last layer. The heads that classify cameras and kinds always start
    anew, because other photographs have other cameras.

    Raises:
        ValueError: keys or shapes differ from the network's; the message names them.
        safetensors.SafetensorError: the file is no safetensors file.
    """
    weights = {name: values for name, values in load_file(path).items() if not name.startswith(CLASSIFIERS)}
    if "conv1.weight" in weights:
        weights = {
            f"extractor.trunk.{name}": values
            for name, values in weights.items()
            if name not in IMAGENET_ONLY or len(values) == network.feature_size
        }
    state = {name: values for name, values in network.state_dict().items() if not name.startswith(CLASSIFIERS)}
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
