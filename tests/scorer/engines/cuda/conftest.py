"""A bundle for the GPU, and crops for its network."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from scorer.bundle.bundle import Bundle, read_bundle


@pytest.fixture(scope="session")
def gpu_bundle(gpu_folder: Path) -> Bundle:
    """A bundle for the GPU around a small network; its mixture is the starter's."""
    return read_bundle(gpu_folder)


@pytest.fixture(scope="session")
def crops() -> NDArray[np.uint8]:
    """Nine smooth random crops [9, 224, 224, 3]."""
    coarse = np.random.default_rng(0).integers(0, 256, (9, 9, 9, 3), dtype=np.uint8)
    return np.stack([np.asarray(Image.fromarray(pixels).resize((224, 224))) for pixels in coarse])
