"""RECCE: Xception as the encoder, a decoder that reconstructs real faces, and attention to what it fails on.

Written from Cao, Ma, Yao, Chen, Ding and Yang, "End-to-End Reconstruction-Classification Learning for Face Forgery
Detection", CVPR 2022, and the authors' repository (github.com/VISION-SJTU/RECCE). Input: 299 pixels, -1..1.

What differs: training is in FP32 instead of mixed precision, at a constant learning rate instead of half of it every
22,500 steps, and a batch has as many real faces as generated ones.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from timm.models.xception import Block, SeparableConv2d
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, interpolate, normalize, unfold

from training.evaluation.detectors.base import Design, DetectorNetwork, Picture, TrainRule
from training.evaluation.detectors.xception import (
    IMAGENET,
    build_xception,
    run_blocks,
    run_first,
    run_last,
    run_second,
    scale_pixels,
)
from training.evaluation.features.weights import load_strictly, read_state_dict, read_weights, strip_prefix

SIDE = 299
WIDTH = 728
VERTEX = 256
DROP_RATE = 0.2
NOISE = 1e-6
"""Standard deviation of the noise on half of the training pictures."""
RECONSTRUCTION_WEIGHT = 0.1
METRIC_WEIGHT = 0.1
FLOOD = 0.04
"""The classification loss is kept above this level (flooding, in the published code)."""
EPSILON = 1e-6
EXPECTED = "the state dictionary of the authors' network Recce with one class (github.com/VISION-SJTU/RECCE)"
# Names of the published layout and of this module, replaced in this order.
NAMES = (
    ("decoder1.1.", "decoder.0.1."),
    ("decoder1.2.", "decoder.0.2."),
    ("decoder2.", "decoder.1."),
    ("decoder3.", "decoder.2."),
    ("decoder4.", "decoder.3."),
    ("decoder5.", "decoder.4."),
    ("decoder6.", "decoder.5."),
    ("reasoning.va_embedding.", "reasoning.embed."),
    ("reasoning.va_gated_b.", "reasoning.finer.0.gate."),
    ("reasoning.va_gated_c.", "reasoning.finer.1.gate."),
    ("reasoning.vb_embedding.", "reasoning.finer.0.embed."),
    ("reasoning.vc_embedding.", "reasoning.finer.1.embed."),
    ("reasoning.reweight_ab.0.", "reasoning.finer.0.weigh."),
    ("reasoning.reweight_ac.0.", "reasoning.finer.1.weigh."),
    ("reasoning.reproject.", "reasoning.project."),
    ("attention.gated.", "attention.gate."),
    ("attention.h.", "attention.enhance."),
)


class FinerVertices(nn.Module):
    """Messages to each vertex of the encoder from the vertices of a decoder's map that lie in its cell.

    Args:
        channels: of the decoder's map.
        ratio: sides of the decoder's map and of the encoder's.
    """

    def __init__(self, channels: int, ratio: int) -> None:
        super().__init__()
        self.ratio = ratio
        self.gate = nn.Sequential(nn.Conv2d(WIDTH, VERTEX, 1, bias=False), nn.Sigmoid())
        self.embed = nn.Sequential(
            nn.Linear(channels, VERTEX, bias=False), nn.ReLU(inplace=True), nn.Linear(VERTEX, VERTEX, bias=False)
        )
        self.weigh = nn.Linear(2 * VERTEX, 1, bias=False)

    def forward(self, encoded: Tensor, vertices: Tensor, decoded: Tensor) -> Tensor:
        """Return [N, 256, P], from the encoder's maps [N, 728, S, S], its P embedded vertices and a decoder's map."""
        cells = unfold(decoded, self.ratio, stride=self.ratio)
        cells = cells.reshape(len(decoded), decoded.shape[1], self.ratio**2, -1).permute(0, 3, 2, 1)
        embedded = self.embed(cells)  # [N, P, ratio x ratio, 256]
        receivers = vertices.transpose(1, 2)[:, :, None].expand_as(embedded)
        weights = torch.relu(self.weigh(torch.cat([receivers, embedded], dim=-1))).softmax(2)
        messages: Tensor = (weights * embedded).sum(2).transpose(1, 2) * (1 - self.gate(encoded).flatten(2))
        return messages


class GraphReasoning(nn.Module):
    """[N, 728, S, S] from the encoder's maps and two maps of the decoder, twice and four times as large."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Sequential(
            nn.Conv2d(WIDTH, VERTEX, 1, bias=False), nn.ReLU(inplace=True), nn.Conv2d(VERTEX, VERTEX, 1, bias=False)
        )
        self.finer = nn.ModuleList([FinerVertices(256, 2), FinerVertices(128, 4)])
        self.project = nn.Sequential(
            nn.Conv2d(3 * VERTEX, WIDTH, 1, bias=False),
            nn.ReLU(inplace=True),
            nn.Conv2d(WIDTH, WIDTH, 1, bias=False),
            nn.Dropout(DROP_RATE),
        )

    def forward(self, encoded: Tensor, decoded: tuple[Tensor, Tensor]) -> Tensor:
        """Return the reasoned maps."""
        vertices = self.embed(encoded).flatten(2)
        messages = [finer(encoded, vertices, each) for finer, each in zip(self.finer, decoded, strict=True)]
        gathered = torch.sigmoid(torch.cat([*messages, vertices], dim=1))
        reasoned: Tensor = self.project(gathered.reshape(len(encoded), -1, *encoded.shape[2:]))
        return reasoned


class GuidedAttention(nn.Module):
    """[N, 728, S, S] with weights of positions from the difference between a picture and its reconstruction."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Sequential(
            nn.Conv2d(3, 3, 3, padding=1, bias=False),
            nn.ReLU(inplace=True),
            nn.Conv2d(3, 1, 1, bias=False),
            nn.Sigmoid(),
        )
        self.enhance = nn.Sequential(
            nn.Conv2d(WIDTH, WIDTH, 1, bias=False), nn.BatchNorm2d(WIDTH), nn.ReLU(inplace=True)
        )
        self.dropout = nn.Dropout(DROP_RATE)

    def forward(self, differences: Tensor, maps: Tensor) -> Tensor:
        """Return the maps; `differences` [N, 3, H, W] are absolute."""
        weights = self.gate(resize(differences, maps.shape[2:]))
        attended: Tensor = weights * self.enhance(maps) + self.dropout(maps)
        return attended


class Found(NamedTuple):
    """What the network finds in N pictures: [N] logits, reconstructions, and three maps that the metric loss takes."""

    logits: Tensor
    reconstructions: Tensor
    maps: tuple[Tensor, Tensor, Tensor]


class Recce(DetectorNetwork):
    """The network. `encoder.fc` is unused; it is in the published layout."""

    def __init__(self, files: Mapping[str, Path]) -> None:
        super().__init__()
        self.encoder = build_xception(files, 1000)
        self.encoder.fc.requires_grad_(requires_grad=False)
        self.decoder = nn.ModuleList(
            [
                grow(WIDTH, 256),
                Block(256, 256, 3, 1),
                grow(256, 128),
                Block(128, 128, 3, 1),
                grow(128, 64),
                nn.Sequential(nn.Conv2d(64, 3, 1, bias=False), nn.Tanh()),
            ]
        )
        self.reasoning = GraphReasoning()
        self.attention = GuidedAttention()
        self.dropout = nn.Dropout(DROP_RATE)
        self.fc = nn.Linear(2048, 1)

    def find(self, inputs: Tensor) -> Found:
        """Return what the network finds; in training, the encoder gets noise."""
        noisy = add_noise(inputs) if self.training else inputs
        encoded = run_blocks(self.encoder, 1, 4, run_second(self.encoder, run_first(self.encoder, noisy)))
        half = self.decoder[1](self.decoder[0](self.dropout(encoded)))
        quarter = self.decoder[3](self.decoder[2](half))
        reconstructions = resize(self.decoder[5](self.decoder[4](quarter)), inputs.shape[2:])

        maps = run_blocks(self.encoder, 5, 7, encoded)
        maps = run_blocks(self.encoder, 8, 8, maps + self.reasoning(maps, (half, quarter)))
        maps = self.attention((inputs - reconstructions).abs(), maps)
        maps = torch.relu(run_last(self.encoder, run_blocks(self.encoder, 9, 12, maps)))
        logits = self.fc(self.dropout(maps.mean((2, 3)))).squeeze(1)
        return Found(logits, reconstructions, (encoded, half, quarter))

    def forward(self, inputs: Tensor) -> Tensor:
        """See `DetectorNetwork`."""
        return self.find(inputs).logits

    def loss(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """Return the classification, reconstruction and metric losses, weighted."""
        found = self.find(inputs)
        classification = binary_cross_entropy_with_logits(found.logits, labels)
        reconstruction = compute_reconstruction_loss(found.reconstructions, inputs, labels)
        metric = sum((compute_metric_loss(each, labels) for each in found.maps), torch.zeros_like(classification))
        flooded = (classification - FLOOD).abs() + FLOOD
        return flooded + RECONSTRUCTION_WEIGHT * reconstruction + METRIC_WEIGHT * metric


def grow(channels: int, outputs: int) -> nn.Sequential:
    """Return layers that double the side of a map."""
    return nn.Sequential(
        nn.UpsamplingNearest2d(scale_factor=2),
        SeparableConv2d(channels, outputs, 3, 1, 1),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


def resize(maps: Tensor, size: torch.Size) -> Tensor:
    """Return maps of another size; their corners stay in place."""
    return interpolate(maps, size=tuple(size), mode="bilinear", align_corners=True)


def add_noise(inputs: Tensor) -> Tensor:
    """Return the inputs, about half of them with white noise."""
    chosen = torch.randint(2, (len(inputs), 1, 1, 1), device=inputs.device)
    return (inputs + chosen * NOISE * torch.randn_like(inputs)).clamp(-1, 1)


def compute_reconstruction_loss(reconstructions: Tensor, inputs: Tensor, labels: Tensor) -> Tensor:
    """Return the mean absolute difference for real pictures; 0 if there is none."""
    real = labels == 0
    if not real.any():
        return reconstructions.new_zeros(())
    return (reconstructions[real] - inputs[real]).abs().mean()


def compute_metric_loss(maps: Tensor, labels: Tensor) -> Tensor:
    """Return how far real pictures are from each other, and how near they are to generated ones.

    The similarity of two pictures is the cosine of their averaged maps, moved to 0..1.
    """
    pooled = normalize(maps.mean((2, 3)), dim=1)
    similarities = (pooled @ pooled.T + 1) / 2
    real = labels == 0
    alike = real[:, None] & real & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    unlike = real[:, None] != real
    within = (similarities * alike).sum() / (alike.sum() + EPSILON)
    between = (similarities * unlike).sum() / (unlike.sum() + EPSILON)
    return torch.relu(1 - within + between)


def preprocess(picture: Picture) -> NDArray[np.float32]:
    """Return [3, 299, 299] in -1..1, resized bilinearly without smoothing, as OpenCV does."""
    resized = cv2.resize(picture, (SIDE, SIDE), interpolation=cv2.INTER_LINEAR)
    return scale_pixels(np.asarray(resized, np.uint8))


def flip(picture: Picture, generator: np.random.Generator) -> Picture:
    """Return the picture, mirrored in half of the cases."""
    return np.ascontiguousarray(picture[:, ::-1]) if generator.integers(2) else picture


def load(network: DetectorNetwork, path: Path) -> None:
    """Load the authors' file: named arrays, alone or under "model" as their trainer writes them.

    Raises:
        FileNotFoundError: there is no file.
        WrongWeights: a key or a shape differs.
    """
    content = read_weights(path, EXPECTED)
    if "model" in content:
        content = read_state_dict(content, "model", path, EXPECTED)
    load_strictly(network, {rename(name): value for name, value in strip_prefix(content, "").items()}, path, EXPECTED)


def rename(name: str) -> str:
    """Return the name in this module of an array of the published layout."""
    for published, own in NAMES:
        if name.startswith(published):
            return own + name.removeprefix(published)
    return name


DESIGN = Design(
    name="recce",
    title="RECCE",
    publication="Cao, Ma, Yao, Chen, Ding, Yang: End-to-End Reconstruction-Classification Learning for Face Forgery "
    "Detection, CVPR 2022",
    published_at="the authors link a file trained on FaceForensics++ (c23) in issue 2 of github.com/VISION-SJTU/RECCE",
    parameters=25_830_509,
    preprocess=preprocess,
    build=Recce,
    load=load,
    rule=TrainRule(optimiser="adam", rate=2e-4, batch_size=32, steps=90_000, weight_decay=1e-5, augment=flip),
    initial_files={"xception": f"The first weights should be {IMAGENET}."},
)
