"""The training steps of a copier: its losses and its discriminator.

The loss of autoencoders and super-resolution is the absolute error, that of fixed features in every second step, and
later a discriminator's. The denoiser's is the squared error.
"""

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from training.pretext.copiers import Copier
from training.pretext.network import build_network
from training.recipes import Recipe

RATE, LOWEST_RATE, WARM_UP_STEPS, BETAS, LARGEST_GRADIENT = 1e-3, 1e-5, 50, (0.9, 0.99), 1.0
DISCRIMINATOR_RATE, DISCRIMINATOR_BETAS, DISCRIMINATOR_WIDTH = 4e-4, (0.5, 0.9), 24
DISCRIMINATOR_FROM, ADVERSARIAL_FROM = 0.3, 0.35  # shares of the steps: the discriminator starts first
FEATURE_WEIGHT, ADVERSARIAL_WEIGHT, SQUARE_WEIGHT = 0.25, 0.03, 4.0
FEATURE_BLOCKS = (0, 2, 4)  # whose outputs are compared, with the stem's
FEATURE_EVERY = 2  # steps


def make_discriminator() -> nn.Sequential:
    """Return a network that scores overlapping patches: positive for photographs."""
    width = DISCRIMINATOR_WIDTH
    layers: list[nn.Module] = [nn.Conv2d(3, width, 4, 2, 1), nn.LeakyReLU(0.2)]
    for factor in (2, 4):
        layers += [nn.Conv2d(factor * width // 2, factor * width, 4, 2, 1), nn.GroupNorm(8, factor * width)]
        layers.append(nn.LeakyReLU(0.2))
    network = nn.Sequential(*layers, nn.Conv2d(4 * width, 1, 3, padding=1))
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]  # torch's stub lacks this overload


def make_features(recipe: Recipe) -> Callable[[Tensor], list[Tensor]]:
    """Return a function of pictures of -1..1: outputs of the first blocks of EfficientNet-Lite0, which stay fixed."""
    extractor = build_network(replace(recipe, backbone="efficientnet_lite0")).extractor.eval()
    extractor.requires_grad_(requires_grad=False)
    normalise, stem, blocks = (extractor.get_submodule(name) for name in ("normalise", "stem", "blocks"))

    def compute(pictures: Tensor) -> list[Tensor]:
        maps = [stem(normalise(((pictures + 1) * 127.5).permute(0, 2, 3, 1)))]
        for block in list(blocks.children())[: FEATURE_BLOCKS[-1] + 1]:
            maps.append(block(maps[-1]))
        return [maps[0], *(maps[index + 1] for index in FEATURE_BLOCKS)]

    return compute


class CopierSteps:
    """The steps of one training: of a network and, unless it is the denoiser, of its discriminator (hinge losses)."""

    def __init__(self, network: Copier, recipe: Recipe, steps: int) -> None:
        """Train `network` in `steps` steps; `recipe` states how pictures are normalised for the features."""
        self.network, self.steps = network, steps
        self.optimiser = torch.optim.Adam(network.parameters(), RATE, BETAS)
        self.discriminator = make_discriminator()
        parameters = self.discriminator.parameters()
        self.discriminator_optimiser = torch.optim.Adam(parameters, DISCRIMINATOR_RATE, DISCRIMINATOR_BETAS)
        self.features = make_features(recipe)

    def take(self, patches: Tensor, number: int) -> float:
        """Take step `number`, from 0; return the absolute error of the reconstruction, of a range of 2."""
        for group in self.optimiser.param_groups:
            warm = min(1.0, (number + 1) / WARM_UP_STEPS)
            group["lr"] = LOWEST_RATE + RATE * warm * (1 + math.cos(math.pi * number / self.steps)) / 2
        with torch.autocast("cpu", torch.bfloat16):
            copied, penalty = self.network(patches)
            loss = penalty + self._compute_loss(copied, patches, number)
        self.optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), LARGEST_GRADIENT)
        self.optimiser.step()
        if self.network.is_adversarial and number >= DISCRIMINATOR_FROM * self.steps:
            self._train_discriminator(patches, copied.detach())
        return float((copied.detach().float() - patches).abs().mean())

    def _compute_loss(self, copied: Tensor, patches: Tensor, number: int) -> Tensor:
        if not self.network.is_adversarial:
            return SQUARE_WEIGHT * (copied - patches).square().mean()
        loss = (copied - patches).abs().mean()
        if number % FEATURE_EVERY == 0:
            for one, two in zip(self.features(copied), self.features(patches), strict=True):
                loss = loss + FEATURE_WEIGHT * (one - two).abs().mean()
        if number >= ADVERSARIAL_FROM * self.steps:
            loss = loss - ADVERSARIAL_WEIGHT * self.discriminator(copied).mean()
        return loss

    def _train_discriminator(self, patches: Tensor, copied: Tensor) -> None:
        with torch.autocast("cpu", torch.bfloat16):
            loss = relu(1 - self.discriminator(patches)).mean() + relu(1 + self.discriminator(copied)).mean()
        self.discriminator_optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        self.discriminator_optimiser.step()
