"""Which maps of a picture's noise correlate: features of a one-class reference that trains nothing.

A filter bank or a noise extractor computes maps of the residual, and the features are the correlations between all
pairs of maps over the pixels (covariance pooling). They do not change with contrast. The picture keeps the pixels of
its file: at most its central 160 px are used, so that time and memory are bounded.

`HighPassBank` needs no file. `load_noiseprint` reads Noiseprint++ (Guillaro, Cozzolino, Sud, Dufour and Verdoliva,
"TruFor", CVPR 2023): a DnCNN of 17 layers and 557,249 parameters that maps RGB / 256 to one map of camera noise. The
noise is a linear combination of its last 64 hidden maps, which are used here. The licence permits nonprofit use only:
this package has no such file, and no bundle contains a result of it.
"""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import conv2d

from training.evaluation.detectors.base import Picture
from training.evaluation.features.weights import load_strictly, read_state_dict, read_weights, strip_prefix

SIDE_PX = 160  # of the part that is used
DNCNN_LAYERS, DNCNN_MAPS = 17, 64
NOISEPRINT_SCALE = 256.0  # as TruFor divides pixels
VARIANCE_FLOOR = 1e-6  # of the mean variance of the maps: a constant map correlates with nothing
NOISEPRINT_WEIGHTS = (
    "Noiseprint++ (TruFor_train_test/pretrained_models/noiseprint++/noiseprint++.th of github.com/grip-unina/TruFor), "
    "for nonprofit use only"
)
# Differences of order 1 and 2 along rows, columns and both diagonals, and the square kernels of 3 and 5 px of
# steganalysis (Fridrich and Kodovsky, "Rich Models", 2012).
SQUARE_3 = ((-1, 2, -1), (2, -4, 2), (-1, 2, -1))
SQUARE_5 = ((-1, 2, -2, 2, -1), (2, -6, 8, -6, 2), (-2, 8, -12, 8, -2), (2, -6, 8, -6, 2), (-1, 2, -2, 2, -1))


def list_kernels() -> NDArray[np.float32]:
    """Return the filters [10, 5, 5]; each has sum 0 and norm 1."""
    kernels = np.zeros((8, 5, 5), np.float32)
    for order, (before, at, after) in enumerate(((0, -1, 1), (1, -2, 1))):
        for number, (down, right) in enumerate(((0, 1), (1, 0), (1, 1), (1, -1))):
            kernel = kernels[4 * order + number]
            kernel[2 - down, 2 - right], kernel[2, 2], kernel[2 + down, 2 + right] = before, at, after
    square_3 = np.pad(np.array(SQUARE_3, np.float32), 1)
    kernels = np.concatenate([kernels, square_3[None], np.array(SQUARE_5, np.float32)[None]])
    norms: NDArray[np.float32] = np.sqrt((kernels**2).sum(axis=(1, 2), keepdims=True))
    return kernels / norms


class HighPassBank(nn.Module):
    """Filters red, green and blue with each high-pass kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("kernels", torch.from_numpy(list_kernels())[:, None])

    def forward(self, picture: Tensor) -> Tensor:
        """Map a picture [3, H, W] of 0..255 to [30, H - 4, W - 4]."""
        return conv2d(picture[:, None], self.get_buffer("kernels")).flatten(0, 1)


class NoiseprintMaps(nn.Module):
    """The last hidden maps of Noiseprint++."""

    def __init__(self, layers: nn.Sequential) -> None:
        super().__init__()
        self.hidden = layers[:-1]

    def forward(self, picture: Tensor) -> Tensor:
        """Map a picture [3, H, W] of 0..255 to [64, H, W]."""
        maps: Tensor = self.hidden(picture[None] / NOISEPRINT_SCALE)[0]
        return maps


def build_dncnn() -> nn.Sequential:
    """Return Noiseprint++'s network: convolutions of 3 x 3, with batch normalisation in all but the first and last."""
    layers: list[nn.Module] = [nn.Conv2d(3, DNCNN_MAPS, 3, padding=1), nn.ReLU()]
    for _ in range(DNCNN_LAYERS - 2):
        layers += [
            nn.Conv2d(DNCNN_MAPS, DNCNN_MAPS, 3, padding=1, bias=False),
            nn.BatchNorm2d(DNCNN_MAPS),
            nn.ReLU(),
        ]
    return nn.Sequential(*layers, nn.Conv2d(DNCNN_MAPS, 1, 3, padding=1))


def load_noiseprint(path: Path) -> NoiseprintMaps:
    """Return the maps of the published file, which has its arrays under `network`.

    Raises:
        FileNotFoundError: there is no file.
        WrongWeights: it contains something else.
    """
    content = read_state_dict(read_weights(path, NOISEPRINT_WEIGHTS), "network", path, NOISEPRINT_WEIGHTS)
    layers = build_dncnn()
    load_strictly(layers, strip_prefix(content, ""), path, NOISEPRINT_WEIGHTS)
    return NoiseprintMaps(layers).eval()


def take_centre(picture: Picture) -> NDArray[np.float32]:
    """Return at most the central 160 px of each side, [3, H, W] of 0..255."""
    top, left = (max(0, (side - SIDE_PX) // 2) for side in picture.shape[:2])
    centre = picture[top : top + SIDE_PX, left : left + SIDE_PX]
    return np.ascontiguousarray(centre.transpose(2, 0, 1), dtype=np.float32)


def correlate(maps: Tensor) -> NDArray[np.float32]:
    """Return the C (C - 1) / 2 correlations between the C maps of [C, H, W]."""
    rows = maps.flatten(1).double()
    rows = rows - rows.mean(dim=1, keepdim=True)
    covariance = rows @ rows.T / rows.shape[1]
    variances = covariance.diagonal()
    floor = VARIANCE_FLOOR * variances.mean() + torch.finfo(torch.float64).tiny
    deviations = torch.sqrt(torch.maximum(variances, floor))
    correlations = (covariance / torch.outer(deviations, deviations)).numpy()
    return correlations[np.triu_indices(len(correlations), 1)].astype(np.float32)
