"""The last layer of a deployed network that a recipe can add: whitened principal components of the features.

A mixture of full covariances needs more photographs than features. The layer is fitted on photographs after the
training, exported as a part of the network, and never trained.
"""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from scorer.files import write_and_rename

STD_FLOOR = 1e-3  # of the mean standard deviation: a feature that is almost constant is not enlarged further


class HeadedExtractor(nn.Module):
    """An extractor and the layer after it: maps [N, S, S, 3] crops of 0..255 to [N, C] components."""

    def __init__(self, extractor: nn.Module, matrix_DC: NDArray[np.floating], offset_C: NDArray[np.floating]) -> None:
        super().__init__()
        self.extractor = extractor
        self.head = nn.Linear(*matrix_DC.shape)
        with torch.no_grad():
            self.head.weight.copy_(torch.from_numpy(matrix_DC.T))
            self.head.bias.copy_(torch.from_numpy(offset_C))

    def forward(self, crops_NHWC: Tensor) -> Tensor:
        """Return the components."""
        components: Tensor = self.head(self.extractor(crops_NHWC))
        return components


def fit_head(features_ND: NDArray[np.floating], components: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return matrix [D, C] and offset [C] such that `features @ matrix + offset` has mean 0 and covariance I.

    They are the first principal components of the standardised features, each divided by its standard deviation.

    Raises:
        ValueError: there are at most as many rows as components, or fewer directions that vary.
    """
    rows = features_ND.astype(np.float64)
    mean, std = rows.mean(axis=0), rows.std(axis=0)
    scale = 1 / np.maximum(std, STD_FLOOR * std.mean()) if std.any() else np.ones_like(std)
    centred = (rows - mean) * scale
    variances, directions = np.linalg.eigh(centred.T @ centred / len(rows))
    chosen, axes = variances[::-1][:components], directions[:, ::-1][:, :components]
    if len(rows) <= components or len(chosen) < components or chosen[-1] <= np.finfo(np.float32).eps * chosen[0]:
        message = (
            f"{len(rows)} crops have no {components} principal components that vary: "
            "prepare more photographs for the roles that the recipe fits"
        )
        raise ValueError(message)
    axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(components)])  # else the sign is arbitrary
    matrix = scale[:, None] * axes / np.sqrt(chosen)
    return matrix.astype(np.float32), (-mean @ matrix).astype(np.float32)


def write_head(path: Path, matrix_DC: NDArray[np.float32], offset_C: NDArray[np.float32]) -> None:
    """Write a head, which `read_head` reads."""
    write_and_rename(
        path.with_suffix(".partial"), path, lambda file: np.savez_compressed(file, matrix=matrix_DC, offset=offset_C)
    )


def read_head(path: Path) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return matrix [D, C] and offset [C].

    Raises:
        FileNotFoundError: `fit` has not been run.
    """
    if not path.is_file():
        message = f"{path.parent} has no {path.name}: run `unlensed-train fit` first"
        raise FileNotFoundError(message)
    with np.load(path, allow_pickle=False) as arrays:
        return arrays["matrix"], arrays["offset"]
