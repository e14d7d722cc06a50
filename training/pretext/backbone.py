"""What every extractor is: raw crops in, 768 features out, and the parts of it that training leaves alone."""

from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor, nn

from ingest.spec import PreprocessSpec

FEATURE_SIZE = 768


class Normalise(nn.Module):
    """NHWC crops of 0..255 to normalised NCHW, so that a bundle's engine takes raw pixels."""

    def __init__(self, spec: PreprocessSpec) -> None:
        super().__init__()
        mean, std = torch.tensor(spec.mean), torch.tensor(spec.std)
        self.register_buffer("scale", (1 / (255 * std)).reshape(1, 3, 1, 1), persistent=False)
        self.register_buffer("offset", (-mean / std).reshape(1, 3, 1, 1), persistent=False)

    def forward(self, crops_NHWC: Tensor) -> Tensor:
        """Map [N, S, S, 3] uint8 or float of 0..255 to [N, 3, S, S] float."""
        scale = self.get_buffer("scale")
        # To float first: TensorRT takes uint8 at its input, but transposes none.
        return crops_NHWC.to(scale.dtype).permute(0, 3, 1, 2) * scale + self.get_buffer("offset")


class Backbone(nn.Module):
    """A network below the features, in blocks of which the first may be frozen.

    Args:
        spec: gives the normalisation, which is the first layer.
        blocks: the stem and then the blocks, in the order in which they run; the subclass registers them.
        frozen_blocks: how many blocks after the stem keep weights and statistics; 0 freezes nothing, not even the stem.
        frozen_statistics: whether all batch normalisation keeps the statistics that it starts with. Where half of a
            batch is manipulated and most of it comes from two cameras, its statistics are not those of the
            photographs that will be scored one at a time.
    """

    def __init__(
        self, spec: PreprocessSpec, blocks: Sequence[nn.Module], frozen_blocks: int, *, frozen_statistics: bool
    ) -> None:
        super().__init__()
        self.normalise = Normalise(spec)
        self.frozen_statistics = frozen_statistics
        split = frozen_blocks + 1 if frozen_blocks else 0
        # Tuples, so that the blocks are registered once only, under the names that published weights have.
        self._frozen, self._trained = tuple(blocks[:split]), tuple(blocks[split:])
        for block in self._frozen:
            block.requires_grad_(requires_grad=False)

    def train(self, mode: bool = True) -> Self:  # noqa: FBT001, FBT002 - torch's signature
        """Switch to training, except for batch statistics that are to stay."""
        super().train(mode)
        for block in (self,) if self.frozen_statistics else self._frozen:
            for module in block.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        return self

    def run_blocks(self, crops_NHWC: Tensor) -> Tensor:
        """Map [N, S, S, 3] crops of 0..255 to the last block's [N, C, h, w]; frozen blocks keep no graph."""
        x: Tensor = self.normalise(crops_NHWC)
        if self._frozen:
            with torch.no_grad():
                for block in self._frozen:
                    x = block(x)
        for block in self._trained:
            x = block(x)
        return x
