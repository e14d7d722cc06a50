"""Readers of the paper's two data sets: Flickr Diverse Faces (FDF) and CelebA-HQ."""

import csv
import json
import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import ijson

from ingest.spec import FaceBox
from training.data.exif import ExifReading, read_json_exif
from training.data.photos import Photo, Role, make_file_reader
from training.data.roles import choose_role

FDF_METADATA = "fdf_metainfo.json"
FDF_SIDES = (256, 128)  # in order of preference
FLICKR_PHOTO = re.compile(r"/photos/([^/]+)/(\d+)")
MAX_EXIF_BYTES = 1 << 20

CELEBA_MAPPINGS = ("CelebA-HQ-to-CelebA-mapping.txt", "image_list.txt")
CELEBA_LISTS = ("train.txt", "test.txt")
CELEBA_NUMBERED = re.compile(r"^(\d+)\.(?:jpe?g|png)$")
# The parts of CelebA (list_eval_partition.txt), which share no person, each with its last zero-based picture number.
CELEBA_PARTS: tuple[tuple[int, str, Role], ...] = (
    (162_769, "train", "fit"),
    (182_636, "val", "calibrate"),
    (202_598, "test", "test"),
)


@dataclass(slots=True)
class FdfPhotos:
    """FDF: `fdf_metainfo.json` and `images/128/*.png` or `images/256/*.png`, and one EXIF JSON per Flickr photograph.

    The source is the Flickr author. With `exif_folder` (the release's `fdf_ccby2_exif_update_filtered_v2`) only
    photographs with a JSON in it are listed, as in the release. Without it all are listed, without tags.

    Attributes:
        folder: contains the metadata.
        exif_folder: contains `<Flickr's number of the photograph>.json`.
    """

    folder: Path
    exif_folder: Path | None
    dropped: Counter[str] = field(default_factory=Counter)

    def list_photos(self) -> Iterator[Photo]:
        """Yield the faces in the order of the metadata; each is one picture.

        Raises:
            ValueError: the metadata is no JSON, or `images` contains neither size.
        """
        self.dropped.clear()
        side = next((side for side in FDF_SIDES if (self.folder / "images" / str(side)).is_dir()), None)
        if side is None:
            message = f"{self.folder / 'images'} has neither a folder 256 nor 128: download FDF's pictures first"
            raise ValueError(message)
        pictures = self.folder / "images" / str(side)
        # The two folders are listed once, because 1.5 million single queries take minutes.
        present, tagged = list_names(pictures), list_names(self.exif_folder) if self.exif_folder else None
        for index, entry in self._entries():
            name = f"{index}.png"
            found = FLICKR_PHOTO.search(str(entry.get("photo_url", "")))
            exif_name = f"{found[2]}.json" if found else ""
            if name not in present:
                self.dropped["without_picture"] += 1
            elif tagged is not None and exif_name not in tagged:
                self.dropped["without_exif_json"] += 1
            else:
                author = entry.get("author") or entry.get("user_nsid") or (found[1] if found else index)
                exif_path = self.exif_folder / exif_name if self.exif_folder else None
                yield Photo(
                    f"{side}/{name}",
                    str(author),
                    make_file_reader(pictures / name),
                    _scale_box(entry, side),
                    partial(_read_exif, exif_path),
                )

    def describe(self) -> str:
        """Return the folders in words."""
        tags = f"tags from {self.exif_folder}" if self.exif_folder else "no folder of EXIF JSONs, so no tags"
        return f"{self.folder}: FDF, {tags}"

    def _entries(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield the metadata's entries one by one: all 1.5 million together take gigabytes of memory."""
        path = self.folder / FDF_METADATA
        try:
            with path.open("rb") as handle:
                for index, entry in ijson.kvitems(handle, "", use_float=True):
                    yield index, entry if isinstance(entry, dict) else {}
        except ijson.JSONError as error:
            message = f"{path} is damaged: {error}; download it again"
            raise ValueError(message) from error


def list_names(folder: Path) -> set[str]:
    """Return the names in a folder."""
    with os.scandir(folder) as entries:
        return {entry.name for entry in entries}


def _read_exif(path: Path | None) -> ExifReading | None:
    """Return the tags of one JSON of the release, None if it is damaged."""
    if path is None:
        return ExifReading()
    try:
        return read_json_exif(json.loads(path.read_bytes())) if path.stat().st_size <= MAX_EXIF_BYTES else None
    except (OSError, ValueError, RecursionError):
        return None


def _scale_box(entry: dict[str, Any], side: int) -> tuple[FaceBox, ...]:
    """Return the face of an entry's `bounding_box` (left, top, right, bottom in 0..1), none if the box is invalid."""
    try:
        left, top, right, bottom = (float(value) * side for value in entry["bounding_box"])
        return (FaceBox(left, top, right - left, bottom - top),)
    except (KeyError, TypeError, ValueError):
        return ()


@dataclass(slots=True)
class CelebaHqPhotos:
    """CelebA-HQ: numbered pictures, with `train.txt` and `test.txt` (the release) or the mapping to CelebA.

    The mapping gives CelebA's train, validation and test parts, which share no person; they become the roles fit,
    calibrate and test. The lists do not identify people: a tenth of the training list, chosen by a hash, becomes the
    role calibrate. The pictures have no tags.

    Attributes:
        folder: contains the lists or the mapping, and the pictures or a folder of them.
    """

    folder: Path
    dropped: Counter[str] = field(default_factory=Counter)

    def list_photos(self) -> Iterator[Photo]:
        """Yield the pictures in the order of their numbers; pictures in no list are counted in `dropped`.

        Raises:
            ValueError: the mapping is no table with `idx` and `orig_idx`.
        """
        self.dropped.clear()
        parts = self._read_lists() or self._read_mapping()
        for number, path in self._pictures():
            part = parts.get(number)
            if part is None:
                self.dropped["not_in_a_list"] += 1
                continue
            name, role = part
            yield Photo(path.name, f"celeba-hq/{name}", make_file_reader(path), read_exif=ExifReading, role=role)

    def describe(self) -> str:
        """Return the folder and the origin of the roles in words."""
        return f"{self.folder}: CelebA-HQ, roles from {'its lists' if self._read_lists() else 'the mapping to CelebA'}"

    def _pictures(self) -> list[tuple[int, Path]]:
        for folder in (self.folder, *sorted(path for path in self.folder.iterdir() if path.is_dir())):
            numbered = [(CELEBA_NUMBERED.match(path.name), path) for path in folder.iterdir()]
            found = sorted((int(match[1]), path) for match, path in numbered if match)
            if found:
                return found
        return []

    def _read_lists(self) -> dict[int, tuple[str, Role]]:
        """Return part and role by number; empty if a list is missing."""
        parts: dict[int, tuple[str, Role]] = {}
        if all((self.folder / name).is_file() for name in CELEBA_LISTS):
            for name in CELEBA_LISTS:
                for line in (self.folder / name).read_text(encoding="utf-8").splitlines():
                    match = CELEBA_NUMBERED.match(line.strip().replace("\\", "/").rpartition("/")[2])
                    if match and name == "test.txt":
                        parts[int(match[1])] = ("test", "test")
                    elif match and choose_role(str(int(match[1])), {"fit": 0.9, "calibrate": 0.1}) == "fit":
                        parts[int(match[1])] = ("train", "fit")
                    elif match:
                        parts[int(match[1])] = ("held-out", "calibrate")
        return parts

    def _read_mapping(self) -> dict[int, tuple[str, Role]]:
        path = next(self.folder / name for name in CELEBA_MAPPINGS if (self.folder / name).is_file())
        with path.open(newline="", encoding="utf-8") as handle:
            rows = csv.DictReader((" ".join(line.split()) for line in handle), delimiter=" ")
            try:
                originals = {int(row["idx"]): int(row["orig_idx"]) for row in rows}
            except (KeyError, TypeError, ValueError) as error:
                message = f"{path} is no table with the columns idx and orig_idx: {error}"
                raise ValueError(message) from error
        return {
            number: next((name, role) for last, name, role in CELEBA_PARTS if original <= last)
            for number, original in originals.items()
            if original <= CELEBA_PARTS[-1][0]
        }
