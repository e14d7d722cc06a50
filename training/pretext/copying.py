"""Copy a face through one of the trained copiers, so that only the traces of the network tell it from the face."""

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import pad

from training.data.manipulations import Face
from training.pretext.copiers import FACTOR, Copier

MATCHED_SHARE = 0.5  # of the copies: they get the spectrum of the face, so that sharpness does not identify copies
RINGS, MATCHED_GAINS = 45, (0.5, 6.0)
MIXED_SHARE, LEAST_MIX = 0.35, 0.35
PARTIAL_SHARE, PARTIAL_GRID, PARTIAL_SLOPE = 0.15, 4, 6.0


@dataclass(frozen=True, slots=True, eq=False)
class FaceCopier:
    """Copies faces. Threads can share it: it has no state, and the networks do not change.

    Attributes:
        networks: trained copiers in evaluation mode, equally likely.
    """

    networks: tuple[Copier, ...]

    def __call__(self, face: Face, rng: np.random.Generator) -> Face:
        """Return a copy of a square face, whole, mixed with the face, or of a part of it; `rng` makes all choices."""
        copied = run_copier(self.networks[rng.integers(len(self.networks))], face, rng)
        if rng.random() < MATCHED_SHARE:
            copied = match_spectrum(copied, face)
        weight = draw_weight(len(face), rng)
        return np.rint(face + (copied - face) * weight).clip(0, 255).astype(np.uint8)


@torch.no_grad()
def run_copier(network: Copier, face: Face, rng: np.random.Generator) -> NDArray[np.float32]:
    """Return the network's copy of a face [S, S, 3], as float of 0..255."""
    side = len(face)
    picture = torch.from_numpy(np.array(face)).permute(2, 0, 1)[None].float() / 127.5 - 1
    picture = pad(picture, (0, -side % FACTOR, 0, -side % FACTOR), mode="reflect")
    with torch.autocast("cpu", torch.bfloat16):
        copied = network.copy(picture.contiguous(memory_format=torch.channels_last), rng)
    pixels = (copied[0, :, :side, :side].float() + 1) * 127.5
    return np.ascontiguousarray(pixels.clamp(0, 255).permute(1, 2, 0).numpy())


def match_spectrum(copied: NDArray[np.float32], face: Face) -> NDArray[np.float32]:
    """Return a copy with the radial power spectrum of the face, channel by channel, within `MATCHED_GAINS`."""
    side = len(face)
    cycles = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side))
    rings = np.minimum(cycles / cycles.max() * RINGS, RINGS - 1).astype(int)
    spectra = [np.fft.rfft2(pixels.astype(np.float32), axes=(0, 1)) for pixels in (copied, face)]
    for channel in range(3):
        had, wanted = (
            np.bincount(rings.ravel(), (np.abs(spectrum[..., channel]) ** 2).ravel(), RINGS) for spectrum in spectra
        )
        spectra[0][..., channel] *= np.sqrt(wanted / np.maximum(had, 1e-3)).clip(*MATCHED_GAINS)[rings]
    return np.fft.irfft2(spectra[0], s=(side, side), axes=(0, 1)).astype(np.float32)


def draw_weight(side: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Return the weight of a copy against its face: 1, one smaller number, or a smooth mask, [side, side, 1]."""
    choice = rng.random()
    if choice < MIXED_SHARE:
        return np.full((1, 1, 1), rng.uniform(LEAST_MIX, 1), np.float32)
    if choice < MIXED_SHARE + PARTIAL_SHARE:
        grid = rng.standard_normal((PARTIAL_GRID, PARTIAL_GRID), dtype=np.float32)
        smooth = np.asarray(cv2.resize(grid, (side, side), interpolation=cv2.INTER_CUBIC))
        mask: NDArray[np.float32] = (1 / (1 + np.exp(-PARTIAL_SLOPE * smooth)))[..., None].astype(np.float32)
        return mask
    return np.ones((1, 1, 1), np.float32)
