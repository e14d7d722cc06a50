"""Shared by the croppers: the faces of one image as a group, batches of limited size, and patterns of failures."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from ingest.formats.heif import MEDIA_TYPES
from ingest.formats.jxl import JXL
from ingest.orientation import find_stored_window
from ingest.probe import EncodedFace, ImageInfo
from ingest.spec import Window

Item = TypeVar("Item")

# The most pixels of one batch, of whole images (progressive JPEG, PNG and WebP are decoded whole) and of face windows:
# one phone's photograph for each thread. It limits memory, and an expensive image has a batch of its own.
BATCH_PIXELS_PER_THREAD = 16_000_000
# DALI's decoders refuse an image from this size of its RGB values on ("Image too large"): 178.9 megapixels.
_MAX_DECODED_BYTES = 1 << 29
# The last pattern: the decoder reads another size than `probe_image`. An image causes no other failure: it is raised.
IMAGE_FAILURE = re.compile(r"Failed to decode sample|nvImageCodec failure|not valid for image dimensions")
# libjpeg prints only its first warning for an image, so that a harmless one may hide damage.
LIBJPEG_WARNING = re.compile(
    r"Corrupt JPEG|Premature end of JPEG|Inconsistent progression|Invalid SOS|Unknown Adobe|Warning: unknown JFIF"
)
LIBPNG_WARNING = re.compile(r"libpng warning:")  # harmless: libpng fails where there is damage


@dataclass(frozen=True, slots=True)
class FaceGroup:
    """One image and the windows of its faces, by their position in the call."""

    data: bytes
    info: ImageInfo
    windows: dict[int, Window] = field(default_factory=dict)

    def find_region(self) -> Window:
        """Return the smallest stored rectangle that contains all windows."""
        windows = self.windows.values()
        left, top = min(w.left for w in windows), min(w.top for w in windows)
        right, bottom = max(w.left + w.width for w in windows), max(w.top + w.height for w in windows)
        return find_stored_window(Window(left, top, right - left, bottom - top), self.info)


def exceeds_dali(info: ImageInfo) -> bool:
    """Return whether the image is too large for DALI, or of a format for which DALI has no decoder."""
    return 3 * info.width * info.height >= _MAX_DECODED_BYTES or needs_sandbox(info)


def needs_sandbox(info: ImageInfo) -> bool:
    """Return whether the image is HEIC, AVIF or JPEG XL, which only processes of the sandbox decode."""
    return info.media_type in {*MEDIA_TYPES.values(), JXL}


def batch_groups(faces: Sequence[EncodedFace], max_batch: int, max_pixels: int) -> Iterator[list[FaceGroup]]:
    """Yield batches of the images of `faces`; each image is in one batch, with all its faces."""
    groups: dict[str, FaceGroup] = {}
    for position, face in enumerate(faces):
        group = groups.setdefault(face.info.sha256, FaceGroup(face.data, face.info))
        group.windows[position] = face.window
    # An entropy-coded byte costs about as much as two pixels; this matters only in files near the limit of bytes.
    images = [(g, max(g.info.decoded_pixels * g.info.scans, 2 * len(g.data))) for g in groups.values()]
    return split_batches(images, max_batch, max_pixels)


def split_batches(items: list[tuple[Item, int]], max_items: int, max_pixels: int) -> Iterator[list[Item]]:
    """Yield batches of (item, pixels) in order, each of at most `max_items` and `max_pixels`, or one larger item."""
    batch: list[Item] = []
    total = 0
    for item, pixels in items:
        if batch and (len(batch) == max_items or total + pixels > max_pixels):
            yield batch
            batch, total = [], 0
        batch.append(item)
        total += pixels
    if batch:
        yield batch
