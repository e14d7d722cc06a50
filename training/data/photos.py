"""Photographs: the protocol of their inputs, and the input of plain folders."""

import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol, get_args

from ingest.exif import ExifReading
from ingest.probe import DEFAULT_LIMITS
from ingest.reasons import Reason, Unscorable
from ingest.spec import FaceBox

Role = Literal["train", "fit", "calibrate", "test"]
ROLES: tuple[Role, ...] = get_args(Role)


@dataclass(frozen=True, slots=True, eq=False)
class Photo:
    """One photograph of a source.

    Attributes:
        name: unique within its input.
        source: the photographer, repository or data set; one source has one role.
        read: returns the encoded bytes or raises `OSError` or `Unscorable`; valid until the next photograph is listed.
        boxes: face boxes in upright pixels if the input contains them; None: the detector finds the faces.
        read_exif: returns the tags if the input contains them (None if they are damaged), and is valid as long as
            `read`; None: the tags are read from the picture.
        role: the role that the input proposes; None: the roles table or the shares decide.
    """

    name: str
    source: str
    read: Callable[[], bytes]
    boxes: tuple[FaceBox, ...] | None = None
    read_exif: Callable[[], ExifReading | None] | None = None
    role: Role | None = None


class PhotoSource(Protocol):
    """An input of `prepare`.

    Attributes:
        dropped: number of entries that the latest pass of `list_photos` left out, by reason.
    """

    dropped: Counter[str]

    def list_photos(self) -> Iterator[Photo]:
        """Yield the photographs, always in the same order, without reading the pictures.

        Raises:
            ValueError: the input is damaged.
        """

    def describe(self) -> str:
        """Return the recognised input in words."""


def read_file(path: Path) -> bytes:
    """Return the bytes of a file within the size limit of images.

    Raises:
        Unscorable: too_many_bytes.
        OSError: the file cannot be read.
    """
    size = path.stat().st_size
    check_size(size)
    return path.read_bytes()


def check_size(size: int) -> None:
    """Refuse an encoded image that is larger than the limit, before it is read.

    Raises:
        Unscorable: too_many_bytes.
    """
    if size > DEFAULT_LIMITS.max_bytes:
        detail = f"the image has {size} bytes; the limit is {DEFAULT_LIMITS.max_bytes}"
        raise Unscorable(Reason.TOO_MANY_BYTES, detail)


def make_file_reader(path: Path) -> Callable[[], bytes]:
    """Return a function that reads `path`; a lambda in a loop would read the last path."""
    return lambda: read_file(path)


@dataclass(slots=True)
class FolderPhotos:
    """A folder with one folder for each source, which contains pictures at any depth.

    Attributes:
        folder: pictures directly in it belong to a source with the folder's name.
    """

    folder: Path
    dropped: Counter[str] = field(default_factory=Counter)

    def list_photos(self) -> Iterator[Photo]:
        """Yield the files in the order of their paths; files that are no pictures fail later, when they are decoded."""
        for path in walk_files(self.folder):
            inside = path.relative_to(self.folder)
            source = inside.parts[0] if len(inside.parts) > 1 else self.folder.resolve().name
            yield Photo(inside.as_posix(), source, make_file_reader(path))

    def describe(self) -> str:
        """Return the folder in words."""
        return f"{self.folder}: one folder for each source"


def walk_files(folder: Path) -> Iterator[Path]:
    """Yield the files below `folder` in the order of their paths, without hidden files and linked folders."""
    with os.scandir(folder) as entries:
        ordered = sorted(entries, key=lambda entry: entry.name)
    for entry in ordered:
        if entry.name.startswith("."):
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from walk_files(Path(entry.path))
        elif entry.is_file():
            yield Path(entry.path)
