"""ProGAN's and StyleGAN's discriminators for 256 px, in the layout that LGrad's release and genforce share."""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, conv2d, leaky_relu, linear, pad

SIDE_PX = 256
BLOCKS = 6  # that halve the side: 256 to 4
SLOPE, GAIN = 0.2, math.sqrt(2)
FUSED_FROM_PX = 128  # StyleGAN convolves and halves larger sides in one step
# The standard deviation over one picture, as the release computes it: pictures of a batch must not change each other.
LONE_STD = 1e-4


def count_maps(side: int) -> int:
    """Return the number of feature maps at a side in pixels."""
    return min(16_384 // side, 512)


class Blur(nn.Module):
    """A binomial filter of 3 x 3 on each map."""

    def __init__(self, maps: int) -> None:
        super().__init__()
        row = torch.tensor([0.25, 0.5, 0.25])
        self.register_buffer("kernel", torch.outer(row, row).repeat(maps, 1, 1, 1))

    def forward(self, maps: Tensor) -> Tensor:
        """Map [N, C, S, S] to the same shape."""
        return conv2d(maps, self.get_buffer("kernel"), padding=1, groups=maps.shape[1])


class EqualisedLayer(nn.Module):
    """A convolution or a matrix whose stored weights have unit variance, and a bias."""

    def __init__(self, *shape: int, gain: float = GAIN, blurred: bool = False) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(shape)), nn.Parameter(torch.zeros(shape[0]))
        self.blur = Blur(shape[1]) if blurred else nn.Identity()
        self._scale = gain / math.sqrt(math.prod(shape[1:]))

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, C, S, S] or [N, C]; a convolution keeps the side."""
        weight = self.weight * self._scale
        if weight.ndim == 2:  # noqa: PLR2004 - a matrix
            return linear(x, weight, self.bias)
        return conv2d(self.blur(x), weight, self.bias, padding=weight.shape[-1] // 2)

    def halve(self, x: Tensor) -> Tensor:
        """Map [N, C, S, S] to half the side as StyleGAN does: with the average of four shifted kernels."""
        padded = pad(self.weight * self._scale, (1, 1, 1, 1))
        weight = (padded[..., 1:, 1:] + padded[..., :-1, 1:] + padded[..., 1:, :-1] + padded[..., :-1, :-1]) / 4
        return conv2d(self.blur(x), weight, self.bias, stride=2, padding=1)


class Discriminator(nn.Module):
    """Maps RGB pictures [N, 3, 256, 256] of -1..1 to [N, 1].

    Args:
        stylegan: whether it is StyleGAN's, which blurs before it halves.
    """

    def __init__(self, *, stylegan: bool) -> None:
        super().__init__()
        self._stylegan = stylegan
        self.register_buffer("lod", torch.zeros(()))  # of the progressive training: 0 after its end
        for block in range(BLOCKS + 1):
            side = SIDE_PX >> block
            maps = count_maps(side)
            self.add_module(f"input{block}", EqualisedLayer(maps, 3, 1, 1))  # all but the first are for the training
            if block < BLOCKS:
                self.add_module(f"layer{2 * block}", EqualisedLayer(maps, maps, 3, 3))
                halving = EqualisedLayer(count_maps(side // 2), maps, 3, 3, blurred=stylegan)
                self.add_module(f"layer{2 * block + 1}", halving)
        maps, features = count_maps(4), count_maps(2)
        self.layer12 = EqualisedLayer(maps, maps + 1, 3, 3)  # one more: the standard deviation
        self.layer13 = EqualisedLayer(features, maps * 4 * 4)
        self.layer14 = EqualisedLayer(1, features, gain=1.0)

    def forward(self, pictures: Tensor) -> Tensor:
        """Return one value for each picture; a high one means real."""
        x = leaky_relu(self.input0(pictures), SLOPE)
        for block in range(BLOCKS):
            x = leaky_relu(self.get_submodule(f"layer{2 * block}")(x), SLOPE)
            x = self._halve(self.get_submodule(f"layer{2 * block + 1}"), x)
        x = torch.cat([x, torch.full_like(x[:, :1], LONE_STD)], dim=1)
        x = leaky_relu(self.layer12(x), SLOPE)
        x = leaky_relu(self.layer13(x.flatten(1)), SLOPE)
        values: Tensor = self.layer14(x)
        return values

    def _halve(self, layer: nn.Module, x: Tensor) -> Tensor:
        if self._stylegan and isinstance(layer, EqualisedLayer) and x.shape[-1] >= FUSED_FROM_PX:
            return leaky_relu(layer.halve(x), SLOPE)
        if self._stylegan:
            return leaky_relu(avg_pool2d(layer(x), 2), SLOPE)
        return avg_pool2d(leaky_relu(layer(x), SLOPE), 2)
