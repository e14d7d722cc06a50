"""Readers of the paper's two data sets: Flickr Diverse Faces (FDF) and CelebA-HQ."""

import csv
import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import ijson

from ingest.exif import ExifReading
from ingest.spec import FaceBox
from training.data.exif import read_json_exif
from training.data.photos import Photo, Role, make_file_reader
from training.data.roles import hash_position

FDF_METADATA = "fdf_metainfo.json"
FDF_SIDES = (256, 128)  # in order of preference
FLICKR_PHOTO = re.compile(r"/photos/([^/]+)/(\d+)")
MAX_EXIF_BYTES = 1 << 20

CELEBA_MAPPINGS = ("CelebA-HQ-to-CelebA-mapping.txt", "image_list.txt")
CELEBA_LISTS = ("train.txt", "test.txt")
CELEBA_NUMBERED = re.compile(r"^(\d+)\.(?:jpe?g|png)$")
CELEBA_PERSONS = "identity_CelebA.txt"
# CelebA's training, validation and test parts share no person (list_eval_partition.txt). The last zero-based picture
# numbers of the three.
CELEBA_LAST = (162_769, 182_636, 202_598)
CELEBA_TEST_SHARE = 1 / 6  # the paper: 25,000 to fit the mixture and 5,000 to test it
CELEBA_ROLES: tuple[Role, ...] = ("fit", "test")
CELEBA_SOURCES: Mapping[Role, str] = {"fit": "celeba-hq/train", "test": "celeba-hq/test"}


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

    The roles are those of the paper: 25,000 pictures fit the mixture and 5,000 test it. The lists state them; with the
    mapping, `split_celeba` does. No picture has the role calibrate: the paper's threshold is a percentile of the
    pictures that were fitted. The pictures have no tags.

    Attributes:
        folder: contains the lists or the mapping, and the pictures or a folder of them. With CelebA's
            `identity_CelebA.txt` too, the mapping is split by person.
    """

    folder: Path
    dropped: Counter[str] = field(default_factory=Counter)

    def list_photos(self) -> Iterator[Photo]:
        """Yield the pictures in the order of their numbers; pictures in no list are counted in `dropped`.

        Raises:
            ValueError: the mapping is no table with `idx` and `orig_idx`, or the persons are no table of two columns.
        """
        self.dropped.clear()
        roles = self._read_lists() or self._split_mapping()
        for number, path in self._pictures():
            role = roles.get(number)
            if role is None:
                self.dropped["not_in_a_list"] += 1
                continue
            read = make_file_reader(path)
            yield Photo(path.name, CELEBA_SOURCES[role], read, read_exif=ExifReading, role=role)

    def describe(self) -> str:
        """Return the folder and the origin of the roles in words."""
        if self._read_lists():
            return f"{self.folder}: CelebA-HQ, roles from its lists"
        persons = "split by person" if self._read_persons() else f"not split by person: there is no {CELEBA_PERSONS}"
        return f"{self.folder}: CelebA-HQ, roles from the mapping to CelebA, {persons}"

    def _pictures(self) -> list[tuple[int, Path]]:
        for folder in (self.folder, *sorted(path for path in self.folder.iterdir() if path.is_dir())):
            numbered = [(CELEBA_NUMBERED.match(path.name), path) for path in folder.iterdir()]
            found = sorted((int(match[1]), path) for match, path in numbered if match)
            if found:
                return found
        return []

    def _read_lists(self) -> dict[int, Role]:
        """Return the role by number; empty if a list is missing."""
        paths = [self.folder / name for name in CELEBA_LISTS]
        roles: dict[int, Role] = {}
        for path, role in zip(paths, CELEBA_ROLES, strict=True) if all(path.is_file() for path in paths) else ():
            for line in path.read_text(encoding="utf-8").splitlines():
                if match := CELEBA_NUMBERED.match(line.strip().replace("\\", "/").rpartition("/")[2]):
                    roles[int(match[1])] = role
        return roles

    def _split_mapping(self) -> dict[int, Role]:
        path = next(self.folder / name for name in CELEBA_MAPPINGS if (self.folder / name).is_file())
        with path.open(newline="", encoding="utf-8") as handle:
            rows = csv.DictReader((" ".join(line.split()) for line in handle), delimiter=" ")
            try:
                originals = {int(row["idx"]): int(row["orig_idx"]) for row in rows}
            except (KeyError, TypeError, ValueError) as error:
                message = f"{path} is no table with the columns idx and orig_idx: {error}"
                raise ValueError(message) from error
        return split_celeba(originals, self._read_persons())

    def _read_persons(self) -> dict[int, int]:
        """Return the person by zero-based number in CelebA; empty without the file."""
        path = self.folder / CELEBA_PERSONS
        try:
            rows = [line.split() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
            return {int(Path(name).stem) - 1: int(person) for name, person in rows}
        except FileNotFoundError:
            return {}
        except ValueError as error:
            message = f"{path} is no table of pictures and persons: {error}"
            raise ValueError(message) from error


def split_celeba(originals: Mapping[int, int], persons: Mapping[int, int]) -> dict[int, Role]:
    """Return the role of each picture: a sixth is for the test, 5,000 of 30,000; the others fit the mixture.

    The test takes the pictures of CelebA's test part, then of its validation part, which share no person with the
    training part: CelebA-HQ has 24,183, 2,993 and 2,824 pictures of the three. Within a part a hash gives the order.
    A known person's pictures stay together. Without the persons, those in the validation part, which is divided, can
    have pictures on both sides.

    Args:
        originals: zero-based number in CelebA by number in CelebA-HQ; pictures beyond CelebA's last one get no role.
        persons: person by number in CelebA; can be empty.
    """
    known = [number for number, original in originals.items() if original <= CELEBA_LAST[-1]]
    groups: dict[tuple[int, float, str], list[int]] = {}
    for number in sorted(known):
        original = originals[number]
        part = sum(original > last for last in CELEBA_LAST)
        name = f"person {persons[original]}" if original in persons else f"picture {original}"
        groups.setdefault((-part, hash_position(name), name), []).append(number)
    wanted = round(len(known) * CELEBA_TEST_SHARE)
    test: list[int] = []
    for _, members in sorted(groups.items()):
        if len(test) + len(members) <= wanted:
            test += members
    return dict.fromkeys(known, CELEBA_ROLES[0]) | dict.fromkeys(test, CELEBA_ROLES[1])
