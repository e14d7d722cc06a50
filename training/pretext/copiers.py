"""Tiny networks that copy pictures: autoencoders, a super-resolution network and a denoiser.

Their copies have the traces of learned upsampling and denoising that generated pictures have, too. Pictures are
[N, 3, H, W] float of -1..1, with sides that are multiples of `FACTOR`.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

FACTOR = 8  # the strongest reduction of a network
GROUPS = 8  # of group normalisation
TRAINING_NOISE, LATENT_PENALTY = 0.05, 1e-3
NOISY_SHARE, LATENT_NOISE = 0.4, 0.25  # of the copies; the largest noise, relative to the latent's deviation
TRAINED_LEVELS, COPIED_LEVELS = (0.05, 0.65), (0.15, 0.6)  # standard deviations of the denoiser's noise
DENOISING_STEPS = 4
LEAST_LEVEL = 1e-3
BLOCK_WIDTH = 64  # from this width on, a decoder has a residual block after the upsampling

Upsampling = Literal["nearest", "transposed", "shuffle"]


@dataclass(frozen=True, slots=True)
class Design:
    """The shape of an `Autoencoder`.

    Attributes:
        widths: channels, from the full resolution down; each further one has half of the resolution.
        latent: channels of the latent; 0 for a network that enlarges the averaged picture (super-resolution).
        upsampling: how the decoder enlarges.
        blocks: residual blocks at the lowest resolution of the decoder.
    """

    widths: tuple[int, ...]
    latent: int
    upsampling: Upsampling
    blocks: int = 1


class ResidualBlock(nn.Module):
    """Two convolutions whose output is added to their input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        layers = [(nn.GroupNorm(GROUPS, width), nn.SiLU(), nn.Conv2d(width, width, 3, padding=1)) for _ in range(2)]
        self.layers = nn.Sequential(*(layer for part in layers for layer in part))

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, C, H, W] to the same shape."""
        changed: Tensor = self.layers(x)
        return x + changed


def make_upsampling(width: int, out: int, kind: Upsampling) -> nn.Module:
    """Return a layer that doubles the resolution."""
    if kind == "transposed":
        return nn.ConvTranspose2d(width, out, 4, 2, 1)
    if kind == "shuffle":
        return nn.Sequential(nn.Conv2d(width, 4 * out, 3, padding=1), nn.PixelShuffle(2))
    return nn.Sequential(nn.Upsample(scale_factor=2, mode="nearest"), nn.Conv2d(width, out, 3, padding=1))


def make_encoder(widths: tuple[int, ...], latent: int) -> nn.Module:
    """Return the reduction to the latent, or to the averaged picture if `latent` is 0."""
    if not latent:
        return nn.AvgPool2d(2 ** (len(widths) - 1))
    layers: list[nn.Module] = [nn.PixelUnshuffle(2), nn.Conv2d(12, widths[1], 3, padding=1)]
    for width, out in pairwise(widths[1:]):
        layers += [nn.SiLU(), nn.Conv2d(width, out, 4, 2, 1), ResidualBlock(out)]
    return nn.Sequential(*layers, nn.Conv2d(widths[-1], latent, 1))


def draw_noise(like: Tensor, rng: np.random.Generator) -> Tensor:
    """Return normal noise of the shape of `like`."""
    return torch.from_numpy(rng.standard_normal(tuple(like.shape), dtype=np.float32)).to(like.dtype)


class Copier(nn.Module):
    """A network that copies pictures; `is_adversarial` if a discriminator and features contribute to its loss."""

    is_adversarial = True

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """Return the reconstruction for training, with torch's random numbers, and a penalty."""
        raise NotImplementedError

    def copy(self, pictures: Tensor, rng: np.random.Generator) -> Tensor:
        """Return copies of the shape of `pictures`; `rng` makes all random choices."""
        raise NotImplementedError


class Autoencoder(Copier):
    """Reduces a picture to a latent and decodes it; see `Design`."""

    def __init__(self, design: Design) -> None:
        super().__init__()
        widths, self.is_learned = design.widths, bool(design.latent)
        self.encoder = make_encoder(widths, design.latent)
        layers: list[nn.Module] = [nn.Conv2d(design.latent or 3, widths[-1], 3, padding=1)]
        layers += [ResidualBlock(widths[-1]) for _ in range(design.blocks)]
        for width, out in pairwise(widths[::-1]):
            layers.append(make_upsampling(width, out, design.upsampling))
            layers.append(ResidualBlock(out) if out >= BLOCK_WIDTH else nn.SiLU())
        self.decoder = nn.Sequential(*layers, nn.Conv2d(widths[0], 3, 3, padding=1))

    def decode(self, latent: Tensor) -> Tensor:
        """Return the pictures of a latent; a super-resolution network adds details to an interpolated picture."""
        pictures: Tensor = self.decoder(latent)
        return pictures if self.is_learned else pictures + interpolate(latent, pictures.shape[2:], mode="bilinear")

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """See `Copier`; the penalty keeps the latent small, so that its noise has an effect."""
        latent: Tensor = self.encoder(pictures)
        if not self.is_learned:
            return self.decode(latent), pictures.new_zeros(())
        penalty = LATENT_PENALTY * latent.float().square().mean()
        return self.decode(latent + TRAINING_NOISE * torch.randn_like(latent)), penalty

    def copy(self, pictures: Tensor, rng: np.random.Generator) -> Tensor:
        """See `Copier`; some copies have a noisy latent."""
        latent: Tensor = self.encoder(pictures)
        if self.is_learned and rng.random() < NOISY_SHARE:
            latent = latent + rng.uniform(0, LATENT_NOISE) * latent.std() * draw_noise(latent, rng)
        return self.decode(latent)


class Denoiser(Copier):
    """A U-Net of two levels that predicts the picture from a noisy one and the noise's standard deviation."""

    is_adversarial = False

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(4, width, 3, padding=1)
        self.to_half = nn.Sequential(nn.Conv2d(width, 2 * width, 4, 2, 1), ResidualBlock(2 * width))
        quarter = (ResidualBlock(4 * width), ResidualBlock(4 * width))
        self.to_quarter = nn.Sequential(nn.Conv2d(2 * width, 4 * width, 4, 2, 1), *quarter)
        self.from_quarter = make_upsampling(4 * width, 2 * width, "nearest")
        self.from_half = nn.Sequential(ResidualBlock(2 * width), make_upsampling(2 * width, width, "nearest"))
        self.last = nn.Sequential(
            nn.SiLU(), nn.Conv2d(width, width, 3, padding=1), nn.SiLU(), nn.Conv2d(width, 3, 3, padding=1)
        )

    def predict(self, noisy: Tensor, levels: Tensor) -> Tensor:
        """Return the pictures without their noise of the standard deviations `levels`, [N, 1, 1, 1]."""
        full = self.first(torch.cat([noisy, levels.expand(-1, 1, *noisy.shape[2:])], dim=1))
        half = self.to_half(full)
        predicted: Tensor = self.last(self.from_half(self.from_quarter(self.to_quarter(half)) + half) + full)
        return predicted

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """See `Copier`."""
        low, high = TRAINED_LEVELS
        levels = low + (high - low) * torch.rand(len(pictures), 1, 1, 1)
        return self.predict(pictures + levels * torch.randn_like(pictures), levels), pictures.new_zeros(())

    def copy(self, pictures: Tensor, rng: np.random.Generator) -> Tensor:
        """See `Copier`: adds noise and removes it in a few deterministic steps, as diffusion models sample."""
        first = level = rng.uniform(*COPIED_LEVELS)
        noisy = pictures + level * draw_noise(pictures, rng)
        for step in range(1, DENOISING_STEPS + 1):
            lower = first * (1 - step / DENOISING_STEPS)
            predicted = self.predict(noisy, torch.full((len(noisy), 1, 1, 1), level))
            noisy = predicted + (noisy - predicted) * (lower / level)
            level = max(lower, LEAST_LEVEL)
        return noisy


DESIGNS = {
    "nearest8": Design((16, 32, 64, 128), 8, "nearest"),
    "transposed4": Design((16, 32, 64), 4, "transposed"),
    "shuffle8": Design((16, 32, 64, 128), 12, "shuffle"),
    "sr4": Design((32, 32, 32), 0, "shuffle", blocks=4),
}
DENOISER_WIDTH = 24


def build_copier(kind: str) -> Copier:
    """Return a new network of a kind of `CopierRule`."""
    copier = Denoiser(DENOISER_WIDTH) if kind == "denoise" else Autoencoder(DESIGNS[kind])
    return copier.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]  # torch's stub lacks this overload
