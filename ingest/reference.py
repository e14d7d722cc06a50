"""Cuts faces with Pillow and NumPy: slow and simple, the reference for tests of the fast paths.

Do not score with it: Pillow hides libjpeg's warnings of damage, for which `ingest.dali` refuses faces.

It decodes bit for bit as DALI does. Crops differ by at most one grey level, where a value lies on a half. In 16-bit
colour PNG they may differ by two: Pillow drops the low byte of a sample, and DALI rounds. 16-bit grey is rounded here,
too: round(value / 257).
"""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile

from ingest.decode_batches import needs_sandbox
from ingest.orientation import turn_upright
from ingest.probe import probe_image, strip_metadata
from ingest.reasons import Reason, Unscorable
from ingest.spec import PreprocessSpec, Window

Image.MAX_IMAGE_PIXELS = None  # `probe_image` has checked the size
ImageFile.LOAD_TRUNCATED_IMAGES = False


def decode_upright(data: bytes) -> NDArray[np.uint8]:
    """Return the upright image (H, W, 3), RGB, alpha dropped.

    Raises:
        Unscorable: `probe_image` refuses it, or it cannot be decoded.
    """
    info = probe_image(data)
    try:
        bare = strip_metadata(data, info.media_type)  # damaged metadata does not damage the picture
        if needs_sandbox(info):
            from ingest.decode import decode_sandboxed  # noqa: PLC0415 - Triton's environment has no pi-heif

            return turn_upright(decode_sandboxed(bare, info), info.orientation)
        with Image.open(io.BytesIO(bare), formats=("JPEG", "PNG", "WEBP")) as image:
            if image.mode.startswith("I;16"):
                grey = np.rint(np.asarray(image) / 257).astype(np.uint8)
                stored = np.repeat(grey[:, :, None], 3, axis=2)
            else:
                # Pillow drops a palette's transparency without a warning only if the image becomes RGBA first.
                stored = np.asarray(image.convert("RGBA" if image.mode == "P" else "RGB"))[:, :, :3]
    except Unscorable:
        raise
    except Exception as error:  # Pillow's parsers raise SyntaxError, struct.error and others on bad bytes
        raise Unscorable(Reason.UNDECODABLE, f"Pillow cannot decode it: {type(error).__name__}") from error
    return turn_upright(stored, info.orientation)


def crop_face(data: bytes, window: Window, spec: PreprocessSpec) -> NDArray[np.uint8]:
    """Return the crop (size, size, 3) of an upright `window`.

    Raises:
        Unscorable: see `decode_upright`.
    """
    upright = decode_upright(data)
    pixels = upright[window.top :, window.left :][: window.height, : window.width]
    return resize_triangular(pixels, spec.size, antialias=spec.antialias)


def resize_triangular(pixels: NDArray[np.uint8], size: int, *, antialias: bool = True) -> NDArray[np.uint8]:
    """Stretch `pixels` (H, W, 3) to (size, size, 3) with a triangular filter."""
    height, width, _ = pixels.shape
    rows, columns = (_triangular_weights(length, size, antialias=antialias) for length in (height, width))
    resized: NDArray[np.float64] = np.einsum("ih,hwc,jw->ijc", rows, pixels.astype(np.float64), columns, optimize=True)
    return np.rint(resized).astype(np.uint8)


def _triangular_weights(length: int, size: int, *, antialias: bool) -> NDArray[np.float64]:
    """Return the (size, length) matrix that resamples one axis.

    For downscaling with antialiasing, the triangle is wider by the scale, so that every source pixel counts. Else the
    result is linear interpolation. Beyond an edge the edge pixel repeats, as in DALI. (Pillow renormalises instead,
    which changes edge pixels by up to 15 grey levels.)
    """
    scale = length / size
    radius = max(scale, 1.0) if antialias else 1.0
    centres = (np.arange(size) + 0.5) * scale
    reach = int(np.ceil(radius)) + 1
    sources = np.floor(centres)[:, None].astype(np.intp) + np.arange(-reach, reach + 1)
    taps = np.clip(1 - np.abs(sources + 0.5 - centres[:, None]) / radius, 0, None)
    weights = np.zeros((size, length))
    np.add.at(weights, (np.arange(size)[:, None], np.clip(sources, 0, length - 1)), taps)
    normalised: NDArray[np.float64] = weights / weights.sum(axis=1, keepdims=True)
    return normalised
