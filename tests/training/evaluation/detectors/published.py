"""Published shapes, expected inputs, and what a loss does not train, for several detectors."""

import numpy as np
from torch import Tensor, nn

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # mean, standard deviation


def list_norm(name: str, width: int) -> dict[str, tuple[int, ...]]:
    """Return the shapes of batch normalisation."""
    parts = ("weight", "bias", "running_mean", "running_var")
    return {f"{name}.{part}": (width,) for part in parts} | {f"{name}.num_batches_tracked": ()}


def list_untrained(network: nn.Module, inputs: Tensor, labels: Tensor) -> set[str]:
    """Return the parameters that get no gradient from the loss."""
    network.train().zero_grad()
    network.loss(inputs, labels).backward()
    return {name for name, value in network.named_parameters() if value.grad is None or not value.grad.any()}


def interpolate(picture: np.ndarray, side: int) -> np.ndarray:
    """Return a picture [side, side, 3], interpolated between its four nearest pixels."""
    found = picture.astype(float)
    for axis, size in enumerate(picture.shape[:2]):
        places = np.clip((np.arange(side) + 0.5) * size / side - 0.5, 0, size - 1)
        first = np.minimum(places.astype(int), size - 2)
        share = np.expand_dims(places - first, [each for each in range(3) if each != axis])
        found = np.take(found, first, axis) * (1 - share) + np.take(found, first + 1, axis) * share
    return found
