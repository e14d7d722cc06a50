"""The golden faces of a bundle, with known results: a public-domain portrait and synthetic patterns.

They are cut from encoded pictures as in a deployment. The last one is reduced by the crop and the others are enlarged,
so that a serving with another margin, resize or antialiasing has other log-likelihoods.
"""

import io
from pathlib import Path

import numpy as np
import skimage
from numpy.typing import NDArray
from PIL import Image

# In pixels of scikit-image's astronaut (NASA, public domain): the part that is used, and the box of the face.
PORTRAIT_PART, PORTRAIT_BOX = (112, 16, 336, 240), (172.0, 70.0, 100.0, 132.0)


def encode(pixels: NDArray[np.uint8], kind: str) -> bytes:
    """Return `pixels`, [H, W, 3], as a JPEG, PNG or WebP file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **({"quality": 90} if kind != "PNG" else {}))
    return buffer.getvalue()


def draw_waves(height: int, width: int) -> NDArray[np.uint8]:
    """Return smooth colour waves with pixel noise of a fixed seed, which have low and high frequencies."""
    y, x = np.mgrid[0:height, 0:width] / np.array([height, width])[:, None, None]
    waves = np.stack([np.sin(9 * x + 4 * y), np.sin(5 * y * y + x), np.cos(12 * x * y)], axis=-1)
    noise = np.random.default_rng(2024).normal(0, 8, waves.shape)
    return np.clip(128 + 90 * waves + noise, 0, 255).astype(np.uint8)


def draw_golden_images() -> tuple[tuple[bytes, ...], NDArray[np.float64]]:
    """Return the pictures, encoded, and one box each, [G, 4] as x, y, width, height in pixels."""
    astronaut = Image.open(Path(skimage.__file__).parent / "data" / "astronaut.png").convert("RGB")
    portrait = astronaut.crop(PORTRAIT_PART)
    (left, top, *_), (x, y, *size) = PORTRAIT_PART, PORTRAIT_BOX
    images = (
        encode(np.asarray(portrait), "JPEG"),
        encode(draw_waves(160, 160), "JPEG"),
        encode(draw_waves(340, 80), "WEBP"),  # tall and narrow: a large window in a small file
    )
    return images, np.array([(x - left, y - top, *size), (30.0, 30.0, 100.0, 100.0), (10.0, 50.0, 60.0, 240.0)])
