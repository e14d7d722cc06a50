"""Decodes JPEG XL with libjxl (imagecodecs): 8-bit RGB, before the orientation, always the whole picture.

Samples of other depths become round(value x 255 / greatest), linear light becomes sRGB. The codes have no checksum:
wrong ones that are valid are not measurable. Codes that end early are an error, since each frame states its size.
"""

import numpy as np
from imagecodecs import jpegxl_decode
from numpy.typing import NDArray

from ingest.formats.jxl import ALPHA, deepen_samples, open_jxl
from ingest.reasons import Reason, Unscorable

Pixels = NDArray[np.uint8]
_BAND_ROWS = 64  # converted together: NumPy makes eight bytes of each sample
_KNEE = 0.0031308  # of sRGB's curve: below, it is a line (IEC 61966-2-1)


def decode_jxl(codestream: bytes) -> Pixels:
    """Return the stored picture, RGB (H, W, 3), of a codestream that `open_jxl` accepts.

    Raises:
        Unscorable: undecodable.
    """
    picture = open_jxl(codestream)
    if is_linear := picture.is_linear:
        codestream = deepen_samples(codestream, picture)
        picture = open_jxl(codestream)
    try:
        decoded = jpegxl_decode(codestream, index=0, keeporientation=True, numthreads=1)
    except (RuntimeError, ValueError) as error:  # libjxl has one error for all causes
        message = "the image data cannot be decoded, end early, or need more memory than such a picture should"
        raise Unscorable(Reason.UNDECODABLE, message) from error
    if picture.is_grey and picture.extra and ALPHA not in picture.extra:
        decoded = decoded[0]  # each channel is a plane
    samples = decoded.reshape(picture.height, picture.width, -1)[:, :, : 1 if picture.is_grey else 3]
    if picture.bits != 8:  # noqa: PLR2004 - bits of a sample
        levels, deep, samples = list_levels(picture.bits, linear=is_linear), samples, np.empty(samples.shape, np.uint8)
        for top in range(0, picture.height, _BAND_ROWS):
            samples[top : top + _BAND_ROWS] = np.take(levels, deep[top : top + _BAND_ROWS], mode="clip")
    return np.broadcast_to(samples, (picture.height, picture.width, 3))


def list_levels(bits: int, *, linear: bool) -> Pixels:
    """Return the 8-bit level of each sample of `bits`."""
    share = np.linspace(0, 1, 1 << bits)
    if linear:
        share = np.where(share <= _KNEE, 12.92 * share, 1.055 * share ** (1 / 2.4) - 0.055)
    return np.rint(255 * share).astype(np.uint8)
