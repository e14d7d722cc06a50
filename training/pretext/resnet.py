"""ResNet-50, the paper's extractor: torchvision's network with another last layer."""

from torch import Tensor, nn
from torchvision.models import resnet50

from ingest.spec import PreprocessSpec
from training.pretext.backbone import Backbone


class ResNetExtractor(Backbone):
    """Maps [N, S, S, 3] crops of 0..255 to [N, D] features; initial weights are random.

    The four blocks are torchvision's layers. Below `trunk.`, all names are torchvision's, so published weights load
    without renaming.
    """

    def __init__(self, spec: PreprocessSpec, frozen_blocks: int, feature_size: int, *, frozen_statistics: bool) -> None:
        trunk = resnet50(weights=None, num_classes=feature_size)
        stem = nn.Sequential(trunk.conv1, trunk.bn1, trunk.relu, trunk.maxpool)
        layers = (trunk.layer1, trunk.layer2, trunk.layer3, trunk.layer4)
        super().__init__(spec, (stem, *layers), frozen_blocks, frozen_statistics=frozen_statistics)
        self.trunk = trunk

    def forward(self, crops_NHWC: Tensor) -> Tensor:
        """Return the features."""
        # The mean replaces torchvision's avgpool and flatten, which the ONNX exporter turns into an index into strides.
        features: Tensor = self.trunk.fc(self.run_blocks(crops_NHWC).mean(dim=(2, 3)))
        return features
