"""Photographs and where they come from: the protocol of every source, and folders, the plainest of them."""

import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol, get_args

from ingest.probe import DEFAULT_LIMITS
from ingest.reasons import Reason, Unscorable
from ingest.spec import FaceBox
from training.data.exif import ExifReading

Role = Literal["train", "fit", "calibrate", "test"]
ROLES: tuple[Role, ...] = get_args(Role)


@dataclass(frozen=True, slots=True, eq=False)
class Photo:
    """One photograph of a source.

    Attributes:
        name: what it is called, unique within its input.
        source: the photographer, repository or data set; one source serves one role.
        read: returns its encoded bytes; it works only until the next photograph is asked for, and raises `OSError`
            or `Unscorable`.
        boxes: its faces in upright pixels where the layout knows them; None leaves them to the detector.
        read_exif: returns its tags where the layout knows them (None where they are damaged); no function leaves them
            to the file. It works as long as `read`.
        role: what the layout would use it for; None leaves it to the roles table or the shares.
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
        dropped: what the latest pass of `list_photos` left out, by reason.
    """

    dropped: Counter[str]

    def list_photos(self) -> Iterator[Photo]:
        """Yield the photographs, always in the same order, without reading a picture.

        Raises:
            ValueError: the input is damaged.
        """

    def describe(self) -> str:
        """Return what was recognised, for a person."""


def read_file(path: Path) -> bytes:
    """Return the bytes of a file that is not larger than an image may be.

    Raises:
        Unscorable: too_many_bytes.
        OSError: it cannot be read.
    """
    size = path.stat().st_size
    check_bytes(size)
    return path.read_bytes()


def check_bytes(size: int) -> None:
    """Refuse an encoded image before it is read.

    Raises:
        Unscorable: too_many_bytes.
    """
    if size > DEFAULT_LIMITS.max_bytes:
        detail = f"the image has {size} bytes; the limit is {DEFAULT_LIMITS.max_bytes}"
        raise Unscorable(Reason.TOO_MANY_BYTES, detail)


def reader(path: Path) -> Callable[[], bytes]:
    """Return a function that reads `path`; a lambda in a loop would read the last one."""
    return lambda: read_file(path)


@dataclass(slots=True)
class FolderPhotos:
    """A folder with a folder for each source, each with pictures at any depth.

    Attributes:
        folder: pictures right in it belong to a source of its own name.
        expected: sources that must be there, as a roles table names them.
    """

    folder: Path
    expected: frozenset[str] = frozenset()
    dropped: Counter[str] = field(default_factory=Counter)

    def list_photos(self) -> Iterator[Photo]:
        """Yield the files by path; what is no picture is found out when it is read.

        Raises:
            FileNotFoundError: an expected source has no folder.
        """
        for source in sorted(self.expected):
            if not (self.folder / source).is_dir():
                message = f"no folder {self.folder / source}: collect the photographs of {source} first"
                raise FileNotFoundError(message)
        for path in walk_files(self.folder):
            inside = path.relative_to(self.folder)
            source = inside.parts[0] if len(inside.parts) > 1 else self.folder.resolve().name
            yield Photo(inside.as_posix(), source, reader(path))

    def describe(self) -> str:
        """Return the folder."""
        return f"{self.folder}: a folder for each source"


def walk_files(folder: Path) -> Iterator[Path]:
    """Yield the files below `folder` by path, without hidden ones; links to folders are not followed."""
    with os.scandir(folder) as entries:
        ordered = sorted(entries, key=lambda entry: entry.name)
    for entry in ordered:
        if entry.name.startswith("."):
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from walk_files(Path(entry.path))
        elif entry.is_file():
            yield Path(entry.path)
