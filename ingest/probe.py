"""Admits or refuses untrusted bytes by their headers and markers, before anything is decoded.

The first bytes identify JPEG, PNG, WebP, HEIC, AVIF and JPEG XL, never a file name. `ingest.formats` has one module for
each container, which states what is accepted. The cost is linear in the bytes, and the number of segments, chunks and
boxes is limited: any 64 MiB are refused within milliseconds.

Not covered: damage inside compressed pixels. The decoders find it later (`ingest.dali`).
"""

import hashlib
from dataclasses import dataclass
from typing import Self

from ingest.formats import heif, heif_writer, isobmff, jpeg, jxl, png, webp
from ingest.formats.header import Header, read_orientation
from ingest.formats.signatures import name_format
from ingest.reasons import Reason, Unscorable
from ingest.spec import FaceBox, PreprocessSpec, Window, crop_window

READ_FORMATS = "JPEG, PNG, WebP, HEIC, AVIF and JPEG XL"
_FIRST_TRANSPOSED = 5  # orientations 5..8 exchange width and height


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of what a header may state. Sides and pixels are stored ones; only JPEG has scans.

    `max_pixels` limits memory, too: a decoder needs up to `PIXEL_BYTES` for each pixel. An image that needs more
    (16-bit colour with alpha, progressive JPEG without chroma subsampling) must have proportionally fewer pixels.
    `max_scan_pixels` limits scans x pixels: for each scan of a progressive JPEG, which may have few bytes, a decoder
    visits the whole image. A usual progressive photograph has 10 scans, so that 200 megapixels are accepted.
    """

    max_bytes: int = 64 * 2**20
    max_pixels: int = 200_000_000
    max_side: int = 30_000
    min_side: int = 32
    max_scans: int = 100
    max_scan_pixels: int = 2_000_000_000


# Bytes of a decoder for each of `Limits.max_pixels`: 16-bit colour, or the coefficients of a progressive 4:2:0 JPEG and
# its RGB values.
PIXEL_BYTES = 6
DEFAULT_LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """An admitted image.

    Attributes:
        width, height: upright pixels, after EXIF `orientation` (1..8) is applied.
        ended: whether the file reaches the end that its container states.
        scans: how many times a decoder visits the image.
        pixel_bytes: bytes of a decoder for each pixel, see `Header`.
        coded_pixels: how many pixels a decoder writes, where the image is a part of them; else 0.
        sound: whether a decoder that reports damage has read the whole image and reported none; False if not known.
    """

    media_type: str
    width: int
    height: int
    orientation: int
    sha256: str
    ended: bool = True
    scans: int = 1
    pixel_bytes: int = 3
    coded_pixels: int = 0
    sound: bool = False

    @property
    def decoded_pixels(self) -> int:
        """How many pixels a decoder writes."""
        return max(self.width * self.height, self.coded_pixels)

    @property
    def stored_size(self) -> tuple[int, int]:
        """(width, height) in stored pixels, before the orientation is applied."""
        return (self.height, self.width) if self.orientation >= _FIRST_TRANSPOSED else (self.width, self.height)

    @property
    def damage_reason(self) -> Reason:
        """The reason for faces of this image whose pixels are missing or wrong."""
        return Reason.UNDECODABLE if self.ended else Reason.TRUNCATED


@dataclass(frozen=True, slots=True)
class EncodedFace:
    """One face to cut: the image's bytes, their `ImageInfo`, and an upright `crop_window`.

    Raises:
        ValueError: the window is not inside the image.
    """

    data: bytes
    info: ImageInfo
    window: Window

    def __post_init__(self) -> None:
        window, info = self.window, self.info
        right, bottom = window.left + window.width, window.top + window.height
        if not (0 <= window.left < right <= info.width and 0 <= window.top < bottom <= info.height):
            message = f"{window} is not inside the upright {info.width} x {info.height} image; use crop_window"
            raise ValueError(message)

    @classmethod
    def around(cls, data: bytes, info: ImageInfo, box: FaceBox, spec: PreprocessSpec) -> Self | None:
        """Return the face that `spec` cuts around `box`, or None where the box lies outside the image."""
        window = crop_window(box, info.width, info.height, spec)
        return None if window is None else cls(data, info, window)


def probe_image(data: bytes, limits: Limits = DEFAULT_LIMITS) -> ImageInfo:
    """Check the headers and markers of encoded `data`; no pixel is decoded.

    Raises:
        Unscorable: empty, too_many_bytes, unsupported_format, animated, truncated, undecodable,
            too_many_pixels, side_too_long, side_too_short or too_many_scans.
    """
    if not data:
        raise Unscorable(Reason.EMPTY, "the image has no bytes")
    if len(data) > limits.max_bytes:
        message = f"the image has {len(data)} bytes; the limit is {limits.max_bytes} (setting limits.max_bytes)"
        raise Unscorable(Reason.TOO_MANY_BYTES, message)
    media_type, header = _read_header(data, limits.max_scans)
    _check_size(header, limits)
    orientation = header.orientation or read_orientation(header.exif)
    width, height = header.width, header.height
    if orientation >= _FIRST_TRANSPOSED:
        width, height = height, width
    return ImageInfo(
        media_type,
        width,
        height,
        orientation,
        hashlib.sha256(data).hexdigest(),
        header.ended,
        header.scans,
        header.pixel_bytes,
        header.coded_pixels,
    )


def strip_metadata(data: bytes, media_type: str) -> bytes:
    """Return the same image with only the segments or chunks that its pixels need.

    `probe_image` accepted `data` as `media_type`. EXIF is removed, too: the caller applies `ImageInfo.orientation`.
    The codestream of a JPEG XL keeps its own, which its decoder does not apply.
    """
    return {
        "image/jpeg": jpeg.strip_jpeg,
        "image/png": png.strip_png,
        "image/webp": webp.strip_webp,
        heif.HEIC: heif_writer.strip_heif,
        heif.AVIF: heif_writer.strip_heif,
        jxl.JXL: jxl.strip_jxl,
    }[media_type](data)


def _read_header(data: bytes, max_scans: int) -> tuple[str, Header]:
    if data.startswith(jpeg.MAGIC):
        return "image/jpeg", jpeg.read_jpeg(data, max_scans)
    if data.startswith(png.MAGIC):
        return "image/png", png.read_png(data)
    if webp.is_webp(data):
        return "image/webp", webp.read_webp(data)
    if isobmff.is_heif(data):
        return heif.read_heif(data)
    if jxl.is_jxl(data):
        return jxl.JXL, jxl.read_jxl(data)
    if name := name_format(data):
        convert = "; convert it first" if name.endswith("image") else ""
        raise Unscorable(Reason.UNSUPPORTED_FORMAT, f"the file is {name}; {READ_FORMATS} are read{convert}")
    raise Unscorable(Reason.UNSUPPORTED_FORMAT, f"the first bytes are those of no image; {READ_FORMATS} are read")


def _check_size(header: Header, limits: Limits) -> None:
    """Refuse a stored size outside `limits`."""
    width, height, scans, pixel_bytes = header.width, header.height, header.scans, header.pixel_bytes
    pixels = max(width * height, header.coded_pixels)
    size = f"the header states {width} x {height} pixels"
    if min(width, height) < limits.min_side:
        message = f"{size}; the shortest allowed side is {limits.min_side} (setting limits.min_side)"
        raise Unscorable(Reason.SIDE_TOO_SHORT, message)
    if pixels > width * height:
        size += f" in tiles of {pixels} pixels"
    if pixels * max(pixel_bytes, PIXEL_BYTES) > limits.max_pixels * PIXEL_BYTES:
        each = f" of {pixel_bytes} bytes each" if pixel_bytes > PIXEL_BYTES else ""
        allowed = limits.max_pixels * PIXEL_BYTES // max(pixel_bytes, PIXEL_BYTES)
        raise Unscorable(Reason.TOO_MANY_PIXELS, f"{size}{each}; the limit is {allowed} (setting limits.max_pixels)")
    if max(width, height) > limits.max_side:
        message = f"{size}; the longest allowed side is {limits.max_side} (setting limits.max_side)"
        raise Unscorable(Reason.SIDE_TOO_LONG, message)
    if scans * pixels > limits.max_scan_pixels:
        message = f"{size} in {scans} scans; the limit of scans x pixels is {limits.max_scan_pixels}"
        raise Unscorable(Reason.TOO_MANY_SCANS, f"{message} (setting limits.max_scan_pixels)")
