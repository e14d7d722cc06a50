"""The layouts of the paper's two data sets: Flickr Diverse Faces (FDF) and CelebA-HQ."""

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
from training.data.photos import Photo, Role, reader
from training.data.roles import draw_role

FDF_METADATA = "fdf_metainfo.json"
FDF_SIDES = (256, 128)  # the larger pictures are taken where both are there
FLICKR_PHOTO = re.compile(r"/photos/([^/]+)/(\d+)")
MAX_EXIF_BYTES = 1 << 20

CELEBA_MAPPINGS = ("CelebA-HQ-to-CelebA-mapping.txt", "image_list.txt")
CELEBA_LISTS = ("train.txt", "test.txt")
CELEBA_NUMBERED = re.compile(r"^(\d+)\.(?:jpe?g|png)$")
# The last zero-based number of CelebA's own parts (list_eval_partition.txt), which share no person.
CELEBA_PARTS: tuple[tuple[int, str, Role], ...] = (
    (162_769, "train", "fit"),
    (182_636, "val", "calibrate"),
    (202_598, "test", "test"),
)


@dataclass(slots=True)
class FdfPhotos:
    """FDF: `fdf_metainfo.json` beside `images/128/*.png` or `images/256/*.png`, and one EXIF JSON a Flickr photograph.

    The source is the author on Flickr. With `exif_folder` (the release's `fdf_ccby2_exif_update_filtered_v2`) only
    photographs that have a JSON in it are taken, as in the release; without, all, untagged.

    Attributes:
        folder: holds the metadata.
        exif_folder: holds `<Flickr's number of the photograph>.json`.
    """

    folder: Path
    exif_folder: Path | None
    dropped: Counter[str] = field(default_factory=Counter)

    def list_photos(self) -> Iterator[Photo]:
        """Yield the faces in the metadata's order; each is one picture.

        Raises:
            ValueError: the metadata is no JSON, or `images` holds neither size.
        """
        self.dropped.clear()
        side = next((side for side in FDF_SIDES if (self.folder / "images" / str(side)).is_dir()), None)
        if side is None:
            message = f"{self.folder / 'images'} has neither a folder 256 nor 128: download FDF's pictures first"
            raise ValueError(message)
        pictures = self.folder / "images" / str(side)
        # Two listings, because asking for each of 1.5 million files takes minutes.
        drawn, tagged = list_names(pictures), list_names(self.exif_folder) if self.exif_folder else None
        for index, entry in self._entries():
            name = f"{index}.png"
            found = FLICKR_PHOTO.search(str(entry.get("photo_url", "")))
            exif_name = f"{found[2]}.json" if found else ""
            if name not in drawn:
                self.dropped["without_picture"] += 1
            elif tagged is not None and exif_name not in tagged:
                self.dropped["without_exif_json"] += 1
            else:
                author = entry.get("author") or entry.get("user_nsid") or (found[1] if found else index)
                exif_path = self.exif_folder / exif_name if self.exif_folder else None
                yield Photo(
                    f"{side}/{name}",
                    str(author),
                    reader(pictures / name),
                    _scale_box(entry, side),
                    partial(_read_exif, exif_path),
                )

    def describe(self) -> str:
        """Return the folders."""
        tags = f"tags from {self.exif_folder}" if self.exif_folder else "no folder of EXIF JSONs, so no tags"
        return f"{self.folder}: FDF, {tags}"

    def _entries(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield the metadata's entries one by one: 1.5 million of them take gigabytes at once."""
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
    """Return the tags in one of the release's JSONs, None where it is damaged."""
    if path is None:
        return ExifReading()
    try:
        return read_json_exif(json.loads(path.read_bytes())) if path.stat().st_size <= MAX_EXIF_BYTES else None
    except (OSError, ValueError, RecursionError):
        return None


def _scale_box(entry: dict[str, Any], side: int) -> tuple[FaceBox, ...]:
    """Return the face of an entry's `bounding_box` (left, top, right, bottom in 0..1), none where it is no box."""
    try:
        left, top, right, bottom = (float(value) * side for value in entry["bounding_box"])
        return (FaceBox(left, top, right - left, bottom - top),)
    except (KeyError, TypeError, ValueError):
        return ()


@dataclass(slots=True)
class CelebaHqPhotos:
    """CelebA-HQ: numbered pictures, with `train.txt` and `test.txt` (the release) or the mapping to CelebA.

    The mapping gives CelebA's own train, validation and test parts, which share no person; they become the roles fit,
    calibrate and test. The lists know no people: a tenth of the training list, by a hash, is held out to calibrate.
    The pictures carry no tags.

    Attributes:
        folder: holds the lists or the mapping, and the pictures, right in it or in one of its folders.
    """

    folder: Path
    dropped: Counter[str] = field(default_factory=Counter)

    def list_photos(self) -> Iterator[Photo]:
        """Yield the pictures by number; one that no list names is counted.

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
            yield Photo(path.name, f"celeba-hq/{name}", reader(path), read_exif=ExifReading, role=role)

    def describe(self) -> str:
        """Return which of the two kinds of lists decides."""
        return f"{self.folder}: CelebA-HQ, roles from {'its lists' if self._read_lists() else 'the mapping to CelebA'}"

    def _pictures(self) -> list[tuple[int, Path]]:
        for folder in (self.folder, *sorted(path for path in self.folder.iterdir() if path.is_dir())):
            numbered = [(CELEBA_NUMBERED.match(path.name), path) for path in folder.iterdir()]
            found = sorted((int(match[1]), path) for match, path in numbered if match)
            if found:
                return found
        return []

    def _read_lists(self) -> dict[int, tuple[str, Role]]:
        """Return part and role by number, nothing without both lists."""
        parts: dict[int, tuple[str, Role]] = {}
        if all((self.folder / name).is_file() for name in CELEBA_LISTS):
            for name in CELEBA_LISTS:
                for line in (self.folder / name).read_text(encoding="utf-8").splitlines():
                    match = CELEBA_NUMBERED.match(line.strip().replace("\\", "/").rpartition("/")[2])
                    if match and name == "test.txt":
                        parts[int(match[1])] = ("test", "test")
                    elif match and draw_role(str(int(match[1])), {"fit": 0.9, "calibrate": 0.1}) == "fit":
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
