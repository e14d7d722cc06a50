"""What all decoders of faces share: one image's faces together, batches of bounded size, and what failures mean."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from ingest.orientation import find_stored_window
from ingest.probe import EncodedFace, ImageInfo
from ingest.spec import Window

Item = TypeVar("Item")

# In one batch, of whole images (progressive JPEG, PNG and WebP are decoded whole) and of face windows: a phone's
# photograph a thread. Bounds memory, and lets an image that is dear to decode share its batch with nothing.
BATCH_PIXELS_PER_THREAD = 16_000_000
# DALI's decoders refuse an image of so many bytes of RGB ("Image too large"): 178.9 megapixels.
_MAX_DECODED_BYTES = 1 << 29
# The last: the decoder reads another size than `probe_image` did. Any other failure is not an image's and is raised.
IMAGE_FAILURE = re.compile(r"Failed to decode sample|nvImageCodec failure|not valid for image dimensions")
# libjpeg prints its first remark on an image and swallows the rest, so that even a harmless one may hide damage.
LIBJPEG_REMARK = re.compile(
    r"Corrupt JPEG|Premature end of JPEG|Inconsistent progression|Invalid SOS|Unknown Adobe|Warning: unknown JFIF"
)
LIBPNG_REMARK = re.compile(r"libpng warning:")  # libpng fails for damage


@dataclass(frozen=True, slots=True)
class FaceGroup:
    """One image and those faces of a call that lie in it, by their position in the call."""

    data: bytes
    info: ImageInfo
    windows: dict[int, Window] = field(default_factory=dict)

    def find_region(self) -> Window:
        """Return the smallest stored rectangle that holds all faces."""
        windows = self.windows.values()
        left, top = min(w.left for w in windows), min(w.top for w in windows)
        right, bottom = max(w.left + w.width for w in windows), max(w.top + w.height for w in windows)
        return find_stored_window(Window(left, top, right - left, bottom - top), self.info)


def is_huge(info: ImageInfo) -> bool:
    """Say whether DALI refuses an image for its size."""
    return 3 * info.width * info.height >= _MAX_DECODED_BYTES


def batch_groups(faces: Sequence[EncodedFace], max_batch: int, max_pixels: int) -> Iterator[list[FaceGroup]]:
    """Yield batches of the images that `faces` lie in, each image once with all its faces."""
    groups: dict[str, FaceGroup] = {}
    for position, face in enumerate(faces):
        group = groups.setdefault(face.info.sha256, FaceGroup(face.data, face.info))
        group.windows[position] = face.window
    # Entropy-coded bytes cost about what two pixels do; it shows only in files near the limit of bytes.
    images = [(g, max(g.info.width * g.info.height * g.info.scans, 2 * len(g.data))) for g in groups.values()]
    return split_batches(images, max_batch, max_pixels)


def split_batches(items: list[tuple[Item, int]], max_items: int, max_pixels: int) -> Iterator[list[Item]]:
    """Yield runs of items, each of at most `max_items` and `max_pixels`, or one larger item alone."""
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
