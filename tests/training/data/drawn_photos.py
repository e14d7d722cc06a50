"""Synthetic photographs for `prepare`, with given face boxes and landmarks."""

import io
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console

from ingest.detect import DetectorSpec, load_detector
from ingest.exif import ExifReading, ExifTags
from ingest.spec import FaceBox, PreprocessSpec
from training.data.chunks import ChunkRecord, PrepareProgress, prepare_photos
from training.data.cutting import FaceCutter
from training.data.detector import copy_detector
from training.data.inputs import Inputs, list_inputs
from training.data.photos import Photo
from training.data.roles import RoleRule

SIDE = 96
ROLES = {"ann": "train", "bob": "fit"}


def draw(seed: int, quality: int = 95) -> bytes:
    """Return a smooth random JPEG of 96 x 96 pixels; different seeds give different pictures."""
    pixels = np.random.default_rng(seed).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


@dataclass(slots=True)
class DrawnPhotos:
    """Photographs of two sources, every third from the second, with one face box each.

    Attributes:
        count: number of photographs.
        stop_at: number of the photograph whose reading raises KeyboardInterrupt.
        tags: whether the photographs have a tag and a camera.
        dropped: always empty.
    """

    count: int
    stop_at: int = -1
    tags: bool = True
    dropped: Counter[str] = field(default_factory=Counter)

    def list_photos(self) -> Iterator[Photo]:
        """Yield the photographs."""
        for number in range(self.count):
            reading = ExifReading(ExifTags(f_number=2.0 + number), "Maker One") if self.tags else ExifReading()
            yield Photo(
                f"{number}.jpg",
                "bob" if number % 3 == 2 else "ann",
                lambda number=number: self.read(number),
                (FaceBox(20, 20, 50, 60),),
                lambda reading=reading: reading,
            )

    def read(self, number: int) -> bytes:
        """Return a picture, or raise KeyboardInterrupt."""
        if number == self.stop_at:
            raise KeyboardInterrupt
        return draw(number)

    def describe(self) -> str:
        """Return a name."""
        return "drawn photographs"


class FixedLandmarks:
    """Returns random points, without torch, whose import takes seconds."""

    name = "fixed"

    def find(self, crop: np.ndarray, box: tuple[float, float, float, float]) -> np.ndarray:
        """Return points within the box."""
        shares = np.random.default_rng(crop.shape[0]).random((68, 2))
        return (shares * box[2:] + box[:2]).astype(np.float32)


def make_cutter(folder: Path) -> FaceCutter:
    """Return a cutter with one thread; the detector is copied to `folder`."""
    detector = load_detector(copy_detector(folder).parents[2], DetectorSpec(), 1)
    return FaceCutter(detector, FixedLandmarks(), PreprocessSpec(), 64, 1)


def prepare_drawn(
    run: Path, photos: DrawnPhotos, cutter: FaceCutter, roles: dict[str, str]
) -> tuple[Inputs, list[ChunkRecord]]:
    """Prepare in chunks of 16 photographs."""
    inputs = list_inputs([photos], RoleRule(table=roles))
    progress = PrepareProgress("preparing", None, "photographs", Console(quiet=True))
    return inputs, prepare_photos(run, inputs, cutter, progress, faces_per_chunk=8)
