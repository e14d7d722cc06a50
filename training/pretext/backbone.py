"""The base class of all extractors: from raw crops to features, with optionally frozen blocks."""

from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor, nn

from ingest.spec import PreprocessSpec


class Normalise(nn.Module):
    """Converts NHWC crops of 0..255 to normalised NCHW, so that a bundle's engine takes raw pixels."""

    def __init__(self, spec: PreprocessSpec) -> None:
        super().__init__()
        mean, std = torch.tensor(spec.mean), torch.tensor(spec.std)
        self.register_buffer("scale", (1 / (255 * std)).reshape(1, 3, 1, 1), persistent=False)
        self.register_buffer("offset", (-mean / std).reshape(1, 3, 1, 1), persistent=False)

    def forward(self, crops_NHWC: Tensor) -> Tensor:
        """Map [N, S, S, 3] uint8 or float of 0..255 to [N, 3, S, S] float."""
        scale = self.get_buffer("scale")
        # To float first: TensorRT accepts uint8 inputs but cannot transpose them.
        return crops_NHWC.to(scale.dtype).permute(0, 3, 1, 2) * scale + self.get_buffer("offset")


class Backbone(nn.Module):
    """A network of blocks that computes the features; its first blocks can be frozen.

    Args:
        spec: gives the normalisation, which is the first layer.
        blocks: the stem and the blocks, in the order of execution; the subclass registers them.
        frozen_blocks: number of blocks after the stem that keep weights and statistics; 0 freezes nothing, not even the
            stem.
        frozen_statistics: whether all batch normalisation keeps its initial statistics. A training batch with half of
            its faces manipulated, most from two cameras, has other statistics than the photographs to be scored.
    """

    def __init__(
        self, spec: PreprocessSpec, blocks: Sequence[nn.Module], frozen_blocks: int, *, frozen_statistics: bool
    ) -> None:
        super().__init__()
        self.normalise = Normalise(spec)
        self.frozen_statistics = frozen_statistics
        split = frozen_blocks + 1 if frozen_blocks else 0
        # Tuples, so that the blocks are registered only once, under the names of published weights.
        self._frozen, self._trained = tuple(blocks[:split]), tuple(blocks[split:])
        for block in self._frozen:
            block.requires_grad_(requires_grad=False)

    def train(self, mode: bool = True) -> Self:  # noqa: FBT001, FBT002 - torch's signature
        """Switch to training mode, except for frozen batch statistics."""
        super().train(mode)
        for block in (self,) if self.frozen_statistics else self._frozen:
            for module in block.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        return self

    def run_blocks(self, crops_NHWC: Tensor) -> Tensor:
        """Map [N, S, S, 3] crops of 0..255 to the last block's [N, C, h, w]; frozen blocks record no graph."""
        x: Tensor = self.normalise(crops_NHWC)
        if self._frozen:
            with torch.no_grad():
                for block in self._frozen:
                    x = block(x)
        for block in self._trained:
            x = block(x)
        return x
