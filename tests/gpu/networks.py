"""Networks and crops to measure with: no trained weights, no private person, the same on every machine."""

import io
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import skimage
import torch
from PIL import Image, ImageFilter
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ingest.spec import PreprocessSpec
from training.pretext.network import build_network
from training.recipes import PAPER_FEATURES, paper, starter

RESNET, LITE = "ResNet-50", "EfficientNet-Lite0"  # random weights; ImageNet's
SIDE = PreprocessSpec().size


def make_extractor(name: str) -> nn.Module:
    """Return a network from [N, 224, 224, 3] uint8 crops to [N, 768] features, in evaluation mode."""
    recipe = replace({RESNET: paper, LITE: starter}[name](), feature_size=PAPER_FEATURES)
    network = build_network(recipe).extractor.eval()
    if name == RESNET:
        settle(network)
    return network


def count_flop(extractor: nn.Module) -> int:
    """Return multiplications and additions of one image."""
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        extractor(torch.zeros((1, SIDE, SIDE, 3), dtype=torch.uint8))
    return counter.get_total_flops()


def settle(network: nn.Module) -> None:
    """Set the statistics of batch normalisation from real pictures, or random features grow with depth."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None  # a mean over all batches
    network.train()
    with torch.inference_mode():
        network(torch.from_numpy(draw_crops(16, seed=7)))
    network.eval()


def draw_crops(count: int, seed: int) -> np.ndarray:
    """Return [count, 224, 224, 3] pieces of the astronaut: other sizes, light, blur, noise, JPEG qualities."""
    portrait = Image.open(Path(skimage.__file__).parent / "data" / "astronaut.png").convert("RGB")
    with ThreadPoolExecutor() as pool:
        crops = pool.map(lambda number: draw_crop(portrait, np.random.default_rng([seed, number])), range(count))
        return np.stack(list(crops))


def draw_crop(portrait: Image.Image, rng: np.random.Generator) -> np.ndarray:
    """Return one piece, [224, 224, 3]."""
    side = int(rng.integers(60, 400))
    left, top = (int(rng.integers(0, 512 - side)) for _ in range(2))
    piece = portrait.crop((left, top, left + side, top + side)).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    pixels = np.asarray(piece.filter(ImageFilter.GaussianBlur(rng.uniform(0, 1.5))), np.float32)
    pixels = 255 * (pixels / 255) ** rng.uniform(0.6, 1.6) + rng.normal(0, rng.uniform(0, 12), pixels.shape)
    encoded = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(encoded, "JPEG", quality=int(rng.integers(50, 96)))
    return np.asarray(Image.open(encoded))
