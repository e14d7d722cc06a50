"""Read WebDataset tars: the files of one sample are adjacent and have the same name up to the first dot."""

import io
import itertools
import json
import tarfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from braceexpand import braceexpand

from ingest.exif import ExifReading, ExifTags
from scorer.archive.source.tars import BoundedFile, next_member, open_tar
from training.data.exif import read_json_exif
from training.data.photos import Photo, check_size

PICTURES = ("jpg", "jpeg", "png", "webp", "heic", "heif", "avif", "jxl")
SOURCE_FIELDS = ("source", "photographer", "author", "owner")
MAX_JSON_BYTES = 1 << 20


@dataclass(slots=True)
class TarPhotos:
    """Uncompressed tars of pictures, each optionally with a JSON of the same name.

    The JSON's `source`, `photographer`, `author` or `owner` is the photograph's source (default: the tar's name). The
    tags are those of its `exif`, or of its own fields; without any, the picture's tags are read. Nothing is extracted
    to disk, and member names are never used as paths.

    Attributes:
        paths: of the tars.
    """

    paths: tuple[Path, ...]
    dropped: Counter[str] = field(default_factory=Counter)

    @classmethod
    def expand(cls, pattern: str) -> "TarPhotos":
        """Return the tars of a pattern such as `faces-{000..015}.tar`.

        Raises:
            FileNotFoundError: one of them does not exist.
        """
        paths = tuple(map(Path, braceexpand(pattern)))
        for path in paths:
            if not path.is_file():
                message = f"there is no tar {path}, which is part of {pattern!r}"
                raise FileNotFoundError(message)
        return cls(paths)

    def list_photos(self) -> Iterator[Photo]:
        """Yield a photograph for each sample with a picture; samples without one are counted in `dropped`.

        Raises:
            ValueError: a tar is damaged or compressed.
        """
        self.dropped.clear()
        for path, archive, members in self._samples():
            picture = next((member for member in members if _split_name(member)[1] in PICTURES), None)
            if picture is None:
                self.dropped["sample_without_picture"] += 1
                continue
            facts = self._read_facts(archive, members)
            exif = read_json_exif(facts.get("exif", facts))
            yield Photo(
                f"{path.name}/{picture.name}",
                name_source(map(facts.get, SOURCE_FIELDS), path.name.split(".")[0]),
                _make_member_reader(archive, picture),
                read_exif=make_exif_reader(exif),
            )

    def describe(self) -> str:
        """Return the first tar and the number of tars in words."""
        return f"{self.paths[0]}: WebDataset, {len(self.paths)} tars"

    def _samples(self) -> Iterator[tuple[Path, tarfile.TarFile, list[tarfile.TarInfo]]]:
        for path in self.paths:
            try:
                check_block_size(path)  # tarfile would accept a partial header as the end
                # Compressed tars are refused: each access to a member would decompress the tar from its start.
                with path.open("rb") as file:
                    bounded = BoundedFile(file)
                    archive = open_tar(bounded)
                    files = (each for each in iter(partial(next_member, archive, bounded), None) if each.isreg())
                    for _, members in itertools.groupby(files, lambda member: _split_name(member)[0]):
                        yield path, archive, list(members)
            except tarfile.TarError as error:
                message = f"{path} is damaged or compressed ({error}): WebDataset tars must be plain tars"
                raise ValueError(message) from error

    def _read_facts(self, archive: tarfile.TarFile, members: list[tarfile.TarInfo]) -> dict[str, object]:
        member = next((member for member in members if _split_name(member)[1] == "json"), None)
        if member is None or member.size > MAX_JSON_BYTES:
            return {}
        try:
            facts = json.loads(_read_member(archive, member))
        except (ValueError, RecursionError):
            self.dropped["json_unreadable"] += 1
            return {}
        return facts if isinstance(facts, dict) else {}


def name_source(values: Iterable[object], default: str) -> str:
    """Return the first value that is no null and no empty text, as text; else `default`."""
    for value in values:
        text = value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else str(value)
        if value is not None and value == value and text:  # noqa: PLR0124 - NaN, a null of some writers, differs from itself
            return text
    return default


def check_block_size(path: Path) -> None:
    """Refuse a file that is truncated within a block.

    Raises:
        tarfile.ReadError: its size is not a multiple of the block size.
    """
    if path.stat().st_size % tarfile.BLOCKSIZE:
        message = f"its size is not a multiple of {tarfile.BLOCKSIZE} bytes"
        raise tarfile.ReadError(message)


def make_exif_reader(exif: ExifReading) -> Callable[[], ExifReading] | None:
    """Return a function that returns `exif`; None if `exif` has no tag, so that the picture's tags are read."""
    return None if exif.tags == ExifTags() else lambda: exif


def _split_name(member: tarfile.TarInfo) -> tuple[str, str]:
    """Return a member's sample (folder and name up to the first dot) and extension, as WebDataset defines them."""
    folder, slash, name = member.name.rpartition("/")
    stem, _, extension = name.partition(".")
    return folder + slash + stem, extension.lower()


def _read_member(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    handle = archive.extractfile(member)
    return (handle or io.BytesIO()).read()


def _make_member_reader(archive: tarfile.TarFile, member: tarfile.TarInfo) -> Callable[[], bytes]:
    def read() -> bytes:
        check_size(member.size)
        return _read_member(archive, member)

    return read
