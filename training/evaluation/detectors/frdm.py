"""FRDM: two streams of Xception, one on pixels and one on residuals of high-pass filters.

Written from Luo, Zhang, Yan and Liu, "Generalizing Face Forgery Detection with High-frequency Features", CVPR 2021, and
the authors' network (github.com/crywang/face-forgery-detection). Input: 256 pixels (the attention fixes 16 x 16
positions), -1..1.

The authors publish the network without its training. The margin (0.45) and the scale (30) of the loss, which Luo gave
to DeepfakeBench (github.com/SCLBD/DeepfakeBench), and the training rule are those of DeepfakeBench; as there, the
margin is subtracted from the outputs of the last layer, which are not normalised to cosines. Its weights are of a
network with another fusion, which is kept in `Fusion.residual`.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import conv2d, cross_entropy, one_hot

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
from training.evaluation.features.weights import load_strictly, read_arrays

SIDE = 256
POSITIONS = 16 * 16
WIDTH = 728
MARGIN = 0.45
SCALE = 30.0
NOISE_LIMIT = 3.0
SRM = (
    ((0, 0, 0, 0, 0), (0, -1, 2, -1, 0), (0, 2, -4, 2, 0), (0, -1, 2, -1, 0), (0, 0, 0, 0, 0)),
    ((-1, 2, -2, 2, -1), (2, -6, 8, -6, 2), (-2, 8, -12, 8, -2), (2, -6, 8, -6, 2), (-1, 2, -2, 2, -1)),
    ((0, 0, 0, 0, 0), (0, 0, 0, 0, 0), (0, 1, -2, 1, 0), (0, 0, 0, 0, 0), (0, 0, 0, 0, 0)),
)
"""Three filters of the spatial rich model (SRM), each to be divided by minus its centre."""
FIRST_GAIN = 0.02
"""Of Xavier's initial weights in the attention."""
EXPECTED = (
    "FRDM in the layout of the authors' Two_Stream_Net (github.com/crywang/face-forgery-detection), or srm_best.pth of "
    "DeepfakeBench (github.com/SCLBD/DeepfakeBench, release v1.0.1)"
)
# Names of the published layouts and of this module, replaced in this order.
AUTHORS = (("xception_rgb.model.", "rgb."), ("xception_srm.model.", "noise."), ("last_linear.1.", "fc."))
BENCH = (("backbone_rgb.", "rgb."), ("backbone_srm.", "noise."), ("last_linear.", "fc."))
BENCH_UNUSED = ("rgb.adjust_channel.", "noise.adjust_channel.", "blur.")
COMMON = (
    ("srm_conv0.kernel", "filters.kernel"),
    ("srm_conv1.out_conv.", "mixers.0.mix."),
    ("srm_conv2.out_conv.", "mixers.1.mix."),
    ("srm_conv1.", "mixers.0."),
    ("srm_conv2.", "mixers.1."),
    ("srm_sa.srm.", "spatial.filters."),
    ("srm_sa.conv.", "spatial.features."),
    ("srm_sa.pa.conv.", "spatial.weigh."),
    ("srm_sa_post.", "normalise."),
    ("dual_cma0.", "attention.0."),
    ("dual_cma1.", "attention.1."),
    ("key_conv1.", "key_rgb."),
    ("key_conv2.", "key_noise."),
    ("key_conv_share.", "key_both."),
    ("linear1.", "relate_rgb."),
    ("linear2.", "relate_noise."),
    ("value_conv1.", "value_rgb."),
    ("value_conv2.", "value_noise."),
    ("gamma1", "gain_rgb"),
    ("gamma2", "gain_noise"),
    ("fusion.convblk.", "fusion.mix."),
    ("fusion.ca.sharedMLP.", "fusion.weigh."),
)


def stack_filters() -> Tensor:
    """Return the filters [3, 5, 5]."""
    filters = torch.tensor(SRM, dtype=torch.float32)
    return filters / -filters[:, 2:3, 2:3]


class Residuals(nn.Module):
    """[N, 3, S, S] truncated residuals of [N, 3, S, S]; each filter adds the channels."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel = nn.Parameter(stack_filters()[:, None].repeat(1, 3, 1, 1), requires_grad=False)

    def forward(self, maps: Tensor) -> Tensor:
        """Return the residuals."""
        return conv2d(maps, self.kernel, padding=2).clamp(-NOISE_LIMIT, NOISE_LIMIT)


class MixedResiduals(nn.Module):
    """[N, C, S, S] mixed from the residuals of each of C channels.

    Three filters belong to each channel. As in the published network, all three of a channel are the same one, and a
    third of the channels has each.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.kernel = nn.Parameter(stack_filters().repeat_interleave(channels, 0)[:, None], requires_grad=False)
        self.mix = nn.Sequential(
            nn.Conv2d(3 * channels, channels, 1, bias=False), nn.BatchNorm2d(channels), nn.ReLU(inplace=True)
        )
        start_like_he(self)

    def forward(self, maps: Tensor) -> Tensor:
        """Return the mixed residuals."""
        residuals = conv2d(maps, self.kernel, padding=2, groups=maps.shape[1]).clamp(-NOISE_LIMIT, NOISE_LIMIT)
        mixed: Tensor = self.mix(residuals)
        return mixed


class SpatialAttention(nn.Module):
    """Weights [N, 1, S/2, S/2] of positions, from residuals [N, 3, S, S], which are filtered once more."""

    def __init__(self) -> None:
        super().__init__()
        self.filters = Residuals()
        self.features = nn.Sequential(
            nn.Conv2d(3, 32, 3, stride=2, bias=False),
            nn.BatchNorm2d(32),
            nn.ReLU(inplace=True),
            nn.Conv2d(32, 64, 3, bias=False),
            nn.BatchNorm2d(64),
            nn.ReLU(inplace=True),
        )
        self.weigh = nn.Conv2d(2, 1, 7, padding=3, bias=False)
        start_like_he(self)

    def forward(self, residuals: Tensor) -> Tensor:
        """Return the weights, 0..1."""
        features = self.features(self.filters(residuals))
        found = torch.cat([features.mean(1, keepdim=True), features.amax(1, keepdim=True)], dim=1)
        return torch.sigmoid(self.weigh(found))


class CrossAttention(nn.Module):
    """Adds to the maps of each stream those of the other one, at related positions; each gain starts at 0."""

    def __init__(self) -> None:
        super().__init__()
        narrow = WIDTH // 8
        self.key_rgb, self.key_noise = nn.Conv2d(WIDTH, narrow, 1), nn.Conv2d(WIDTH, narrow, 1)
        self.key_both = nn.Conv2d(narrow, narrow, 1)
        self.relate_rgb, self.relate_noise = nn.Linear(POSITIONS, POSITIONS), nn.Linear(POSITIONS, POSITIONS)
        self.value_rgb, self.value_noise = nn.Conv2d(WIDTH, WIDTH, 1), nn.Conv2d(WIDTH, WIDTH, 1)
        self.gain_rgb, self.gain_noise = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
        start_small(self)

    def forward(self, rgb: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Return both maps [N, 728, 16, 16]."""
        keys_rgb = self.key_both(self.key_rgb(rgb)).flatten(2)
        keys_noise = self.key_both(self.key_noise(noise)).flatten(2)
        energy = keys_rgb.transpose(1, 2) @ keys_noise
        to_rgb = self.relate_rgb(energy).softmax(-1)
        to_noise = self.relate_noise(energy.transpose(1, 2)).softmax(-1)
        from_noise = self.value_noise(noise).flatten(2) @ to_rgb.transpose(1, 2)
        from_rgb = self.value_rgb(rgb).flatten(2) @ to_noise.transpose(1, 2)
        return (
            rgb + self.gain_rgb * from_noise.view_as(rgb),
            noise + self.gain_noise * from_rgb.view_as(noise),
        )


class Fusion(nn.Module):
    """[N, 2048, S, S] of both streams, with weights of channels.

    `residual` is 1, and 0 for DeepfakeBench's weights, whose network multiplies by the weights alone.
    """

    residual: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Sequential(nn.Conv2d(4096, 2048, 1, bias=False), nn.BatchNorm2d(2048), nn.ReLU(inplace=True))
        self.weigh = nn.Sequential(nn.Conv2d(2048, 128, 1, bias=False), nn.ReLU(), nn.Conv2d(128, 2048, 1, bias=False))
        start_small(self.weigh)
        self.register_buffer("residual", torch.ones(()))

    def forward(self, rgb: Tensor, noise: Tensor) -> Tensor:
        """Return the fused maps."""
        fused: Tensor = self.mix(torch.cat([rgb, noise], dim=1))
        mean, most = fused.mean((2, 3), keepdim=True), fused.amax((2, 3), keepdim=True)
        return fused * (self.residual + torch.sigmoid(self.weigh(mean) + self.weigh(most)))


class Frdm(DetectorNetwork):
    """The two streams. `noise.fc` is unused; it is in the published layout."""

    def __init__(self, files: Mapping[str, Path]) -> None:
        super().__init__()
        self.rgb, self.noise = build_xception(files, 2), build_xception(files, 2)
        self.noise.fc.requires_grad_(requires_grad=False)
        self.rgb.drop_rate = 0.5
        self.filters = Residuals()
        self.mixers = nn.ModuleList([MixedResiduals(32), MixedResiduals(64)])
        self.spatial = SpatialAttention()
        self.normalise = nn.Sequential(nn.BatchNorm2d(64), nn.ReLU(inplace=True))
        self.attention = nn.ModuleList([CrossAttention(), CrossAttention()])
        self.fusion = Fusion()

    def classify(self, inputs: Tensor) -> Tensor:
        """Return [N, 2] outputs for real and generated."""
        residuals = self.filters(inputs)
        rgb = run_first(self.rgb, inputs)
        noise = torch.relu(run_first(self.noise, residuals) + self.mixers[0](rgb))
        rgb = run_second(self.rgb, rgb)
        noise = torch.relu(run_second(self.noise, noise) + self.mixers[1](rgb))
        rgb = self.normalise(rgb + rgb * self.spatial(residuals))

        rgb, noise = run_blocks(self.rgb, 1, 3, rgb), run_blocks(self.noise, 1, 3, noise)
        rgb, noise = self.attention[0](rgb, noise)
        rgb, noise = run_blocks(self.rgb, 4, 7, rgb), run_blocks(self.noise, 4, 7, noise)
        rgb, noise = self.attention[1](rgb, noise)
        rgb, noise = run_blocks(self.rgb, 8, 12, rgb), run_blocks(self.noise, 8, 12, noise)
        outputs: Tensor = self.rgb.forward_head(self.fusion(run_last(self.rgb, rgb), run_last(self.noise, noise)))
        return outputs

    def forward(self, inputs: Tensor) -> Tensor:
        """See `DetectorNetwork`."""
        outputs = self.classify(inputs)
        return outputs[:, 1] - outputs[:, 0]

    def loss(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """Return the cross-entropy of the scaled outputs, less the margin at the output of the label."""
        return compute_margin_loss(self.classify(inputs), labels)


def compute_margin_loss(outputs: Tensor, labels: Tensor) -> Tensor:
    """Return the mean additive-margin softmax loss of [N, 2] outputs."""
    classes = labels.long()
    return cross_entropy(SCALE * (outputs - MARGIN * one_hot(classes, 2)), classes)


def start_like_he(module: nn.Module) -> None:
    """Set the initial weights of the convolutions as He et al. do for linear units."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, a=1)


def start_small(module: nn.Module) -> None:
    """Set small initial weights of the convolutions and linear layers."""
    for part in module.modules():
        if isinstance(part, (nn.Conv2d, nn.Linear)):
            nn.init.xavier_normal_(part.weight, gain=FIRST_GAIN)


def preprocess(picture: Picture) -> NDArray[np.float32]:
    """Return [3, 256, 256] in -1..1, resized by Pillow's bilinear filter as in the code of FaceForensics++."""
    resized = Image.fromarray(picture).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    return scale_pixels(np.asarray(resized))


def rename(name: str, pairs: tuple[tuple[str, str], ...]) -> str:
    """Return a name of this module for one of a published layout."""
    for published, own in pairs:
        name = name.replace(published, own)
    return name


def load(network: DetectorNetwork, path: Path) -> None:
    """Load a file in the authors' or in DeepfakeBench's layout.

    Raises:
        FileNotFoundError: there is no file.
        WrongWeights: a key or a shape differs.
    """
    weights = read_arrays(path, EXPECTED)
    bench = any(name.startswith("backbone_rgb.") for name in weights)
    pairs = (*(BENCH if bench else AUTHORS), *COMMON)
    named = {rename(name, pairs): value for name, value in weights.items()}
    if bench:
        named = {name: value for name, value in named.items() if not name.startswith(BENCH_UNUSED)}
    load_strictly(network, named | {"fusion.residual": torch.tensor(0.0 if bench else 1.0)}, path, EXPECTED)


DESIGN = Design(
    name="frdm",
    title="FRDM",
    publication="Luo, Zhang, Yan, Liu: Generalizing Face Forgery Detection with High-frequency Features, CVPR 2021",
    published_at="the authors publish no weights; DeepfakeBench publishes srm_best.pth (FaceForensics++, 256 pixels) "
    "in release v1.0.1 of github.com/SCLBD/DeepfakeBench",
    parameters=53_250_128,
    preprocess=preprocess,
    build=Frdm,
    load=load,
    # DeepfakeBench: 10 epochs of 720 real and 2,880 generated videos, 32 frames each.
    rule=TrainRule(optimiser="adam", rate=2e-4, batch_size=32, steps=36_000, weight_decay=5e-4),
    initial_files={"xception": f"The first weights should be {IMAGENET}."},
)
