"""The gate: what untrusted bytes claim to be, judged from headers and markers before anything is decoded.

JPEG, PNG and WebP are told apart by their first bytes, never by a name. Each container's policy stands in its
own module (`jpeg`, `png`, `webp`). Cost is linear in the bytes at the speed of memory, and walks are bounded,
so that a refusal takes milliseconds whatever 32 MiB contain.

Not covered: damage inside compressed pixels. A decoder meets that later (`ingest.dali`) and refuses then.
"""

import hashlib
from dataclasses import dataclass
from typing import Self

from ingest import jpeg, png, webp
from ingest.header import Header, read_orientation
from ingest.reasons import Reason, Unscorable
from ingest.spec import FaceBox, PreprocessSpec, Window, crop_window

_FIRST_TRANSPOSED = 5  # orientations 5..8 exchange width and height


@dataclass(frozen=True, slots=True)
class Limits:
    """What an image may claim. Sides and pixels count stored pixels, scans exist in JPEG only.

    `max_scan_pixels` bounds scans x pixels: a progressive JPEG of few bytes makes a decoder visit the whole
    image once a scan. A usual progressive photograph has 10 scans, so 100 megapixels still pass. `max_decoded_bytes`
    bounds what PNG inflates to: 16 bits and alpha cost up to 8 bytes a pixel.
    """

    max_bytes: int = 32 * 2**20
    max_pixels: int = 100_000_000
    max_side: int = 30_000
    min_side: int = 32
    max_scans: int = 100
    max_scan_pixels: int = 1_000_000_000
    max_decoded_bytes: int = 300_000_000


DEFAULT_LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """An admitted image; `width` and `height` are upright pixels, after EXIF `orientation` (1..8) is applied."""

    media_type: str
    width: int
    height: int
    orientation: int
    sha256: str

    @property
    def stored_size(self) -> tuple[int, int]:
        """(width, height) in pixels as stored, before the orientation is applied."""
        return (self.height, self.width) if self.orientation >= _FIRST_TRANSPOSED else (self.width, self.height)


@dataclass(frozen=True, slots=True)
class EncodedFace:
    """One face to cut: the image's bytes, what `probe_image` said of them, and an upright `crop_window`.

    Raises:
        ValueError: the window reaches outside the image.
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
        """Return the face that `spec` cuts around `box`, or None when the box misses the image."""
        window = crop_window(box, info.width, info.height, spec)
        return None if window is None else cls(data, info, window)


def probe_image(data: bytes, limits: Limits = DEFAULT_LIMITS) -> ImageInfo:
    """Judge encoded `data` by its headers and markers; no pixel is decoded.

    Raises:
        Unscorable: empty, too_many_bytes, unsupported_format, animated, truncated, undecodable,
            too_many_pixels, side_too_long, side_too_short or too_many_scans.
    """
    if not data:
        raise Unscorable(Reason.EMPTY, "the image has no bytes")
    if len(data) > limits.max_bytes:
        raise Unscorable(Reason.TOO_MANY_BYTES, f"the image has {len(data)} bytes; the limit is {limits.max_bytes}")
    media_type, header = _read_header(data, limits.max_scans)
    _check_size(header, limits)
    orientation = read_orientation(header.exif)
    width, height = header.width, header.height
    if orientation >= _FIRST_TRANSPOSED:
        width, height = height, width
    return ImageInfo(media_type, width, height, orientation, hashlib.sha256(data).hexdigest())


def strip_metadata(data: bytes, media_type: str) -> bytes:
    """Return the same picture with nothing in it but what its pixels need.

    `data` passed `probe_image` as `media_type`. EXIF goes too: apply `ImageInfo.orientation` yourself.
    """
    return {"image/jpeg": jpeg.strip_jpeg, "image/png": png.strip_png, "image/webp": webp.strip_webp}[media_type](data)


def _read_header(data: bytes, max_scans: int) -> tuple[str, Header]:
    if data.startswith(jpeg.MAGIC):
        return "image/jpeg", jpeg.read_jpeg(data, max_scans)
    if data.startswith(png.MAGIC):
        return "image/png", png.read_png(data)
    if webp.is_webp(data):
        return "image/webp", webp.read_webp(data)
    raise Unscorable(Reason.UNSUPPORTED_FORMAT, "the first bytes are not those of a JPEG, PNG or WebP")


def _check_size(header: Header, limits: Limits) -> None:
    """Refuse a stored size outside `limits`."""
    width, height, _, scans, pixel_bytes = header
    size = f"the header states {width} x {height} pixels"
    if min(width, height) < limits.min_side:
        raise Unscorable(Reason.SIDE_TOO_SHORT, f"{size}; a side needs {limits.min_side}")
    if width * height > limits.max_pixels:
        raise Unscorable(Reason.TOO_MANY_PIXELS, f"{size}; the limit is {limits.max_pixels} in all")
    if width * height * pixel_bytes > limits.max_decoded_bytes:
        raise Unscorable(
            Reason.TOO_MANY_PIXELS, f"{size} of {pixel_bytes} bytes; the limit is {limits.max_decoded_bytes} bytes"
        )
    if max(width, height) > limits.max_side:
        raise Unscorable(Reason.SIDE_TOO_LONG, f"{size}; the limit is {limits.max_side} a side")
    if scans * width * height > limits.max_scan_pixels:
        raise Unscorable(
            Reason.TOO_MANY_SCANS, f"{size} in {scans} scans; scans x pixels may reach {limits.max_scan_pixels}"
        )
