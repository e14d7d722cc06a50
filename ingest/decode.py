"""Decodes a whole image at a reduced size, for the face detector.

libjpeg-turbo (simplejpeg) decodes JPEG: it returns its warnings, and reduces inside the decoder. Pillow decodes PNG and
WebP, `ingest.decode_heif` HEIC and AVIF, `ingest.decode_jxl` JPEG XL. All decoders get `strip_metadata` bytes, as the
cropper does, so that both accept the same files.
"""

import io
import math

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from ingest.decode_batches import LIBJPEG_WARNING, needs_sandbox
from ingest.decode_heif import decode_heif
from ingest.decode_jxl import decode_jxl
from ingest.formats.jxl import JXL
from ingest.probe import ImageInfo
from ingest.reasons import Reason, Unscorable
from ingest.spec import Window

Image.MAX_IMAGE_PIXELS = None  # `probe_image` has checked the size

Pixels = NDArray[np.uint8]
_FACTORS = (8, 4, 2, 1)  # reductions for which libjpeg-turbo has fast code


def decode_reduced(bare: bytes, info: ImageInfo, scale: float) -> tuple[Pixels, str | None]:
    """Return the stored image at `scale` of its size or larger, RGB (H, W, 3), and libjpeg's warning, or "".

    The warning is None for a JPEG that only a decoder without warnings reads.

    Args:
        bare: the file without its metadata.
        info: the result of `probe_image`.
        scale: the factor of the sides, at most 1.

    Raises:
        Unscorable: undecodable.
    """
    width, height = info.stored_size
    least = math.ceil(width * scale), math.ceil(height * scale)
    if info.media_type == "image/jpeg":
        factor = next(f for f in _FACTORS if -(-width // f) >= least[0] and -(-height // f) >= least[1])  # rounded up
        stored, warning = _decode_jpeg(bare, -(-width // factor), -(-height // factor))
    elif needs_sandbox(info):
        stored, warning = decode_sandboxed(bare, info), ""
    else:
        stored, warning = _decode_with_pillow(bare, least), ""
    return reduce_pixels(stored, width * scale), warning


def decode_sandboxed(bare: bytes, info: ImageInfo, window: Window | None = None) -> Pixels:
    """Return the stored picture of a HEIC, AVIF or JPEG XL, or a stored `window` of it, RGB (H, W, 3).

    Raises:
        Unscorable: undecodable.
    """
    if info.media_type != JXL:
        return decode_heif(bare, window)
    pixels = decode_jxl(bare)
    return pixels[window.top :, window.left :][: window.height, : window.width] if window else pixels


def reduce_pixels(stored: Pixels, width: float) -> Pixels:
    """Return decoded pixels (H, W, 3), reduced by a whole number to a width of at least `width`."""
    reduction = max(1, math.floor(stored.shape[1] / width))
    if reduction == 1:
        return stored
    return np.asarray(Image.fromarray(np.ascontiguousarray(stored)).reduce(reduction))


def _decode_jpeg(bare: bytes, width: int, height: int) -> tuple[Pixels, str | None]:
    """Return the JPEG reduced to `width` x `height`, and libjpeg's warning; see `decode_reduced`.

    Raises:
        Unscorable: undecodable.
    """
    pixels = np.empty((height, width, 3), np.uint8)
    try:
        return simplejpeg.decode_jpeg(bare, min_width=width, min_height=height, buffer=pixels), ""
    except ValueError as error:
        warning = str(error)
    if LIBJPEG_WARNING.match(warning):  # simplejpeg raises it after it has filled the buffer
        return pixels, warning
    if "nsufficient memory" in warning or "allocation failure" in warning:
        raise MemoryError(warning)
    if "subsampling" in warning:  # TurboJPEG supports the usual ones only
        return _decode_with_pillow(bare, (width, height)), None
    raise Unscorable(Reason.UNDECODABLE, f"the decoder reports: {warning}")


def _decode_with_pillow(bare: bytes, least: tuple[int, int]) -> Pixels:
    try:
        with Image.open(io.BytesIO(bare), formats=("JPEG", "PNG", "WEBP")) as image:
            image.draft(None, least)
            return np.asarray(_convert_rgb(image))
    except MemoryError:
        raise
    except Exception as error:  # Pillow's parsers raise SyntaxError, struct.error and others on bad bytes
        if "out of memory" in str(error):
            raise MemoryError(str(error)) from error
        message = f"the image data cannot be decoded ({type(error).__name__})"
        raise Unscorable(Reason.UNDECODABLE, message) from error


def _convert_rgb(image: Image.Image) -> Image.Image:
    """Convert any Pillow mode to 8-bit RGB: alpha is dropped; 16-bit grey is scaled, since Pillow would clip it.

    The detector sees the result; crops have 16-bit samples rounded (`ingest.formats.png`).
    """
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    # Pillow drops a palette's transparency without a warning only if the image becomes RGBA first.
    return image.convert("RGBA").convert("RGB") if image.mode == "P" else image.convert("RGB")
