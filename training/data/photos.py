"""A folder of photographs with one CSV per source: which photographs there are, and in which role.

The folder is what a collector writes: `DIR/<source>/<sha[:12]><suffix>`, and rows with `repo`, `path`,
`sha`. A second table gives each source its role, so that no source serves two roles: splitting by
face would let one camera, place or person sit on both sides.
"""

import csv
import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from training.data.exif import ExifTags, read_camera, read_exif

Role = Literal["train", "fit", "calibrate", "test"]
ROLES: tuple[Role, ...] = get_args(Role)
HASH_SIDE = 16
NEAR_DUPLICATE_BITS = 12  # of 256; measured: distinct photographs of one series differ in 20 and more


@dataclass(frozen=True, slots=True)
class Photo:
    """One photograph on disk with what its camera wrote into it."""

    path: Path
    source: str
    role: Role
    tags: ExifTags
    camera: str


def read_roles(sources_csv: Path) -> dict[str, Role]:
    """Return the role of each source from a table with the columns `repo` and `role`.

    Raises:
        ValueError: a role is not one of train, fit, calibrate, test.
    """
    with sources_csv.open(newline="") as handle:
        rows = {row["repo"].replace("/", "+"): row["role"] for row in csv.DictReader(handle)}
    for source, role in rows.items():
        if role not in ROLES:
            message = f"{sources_csv}: source {source} has role {role!r}; use one of {', '.join(ROLES)}"
            raise ValueError(message)
    return cast("dict[str, Role]", rows)


def list_photos(folder: Path, roles: dict[str, Role]) -> list[tuple[Path, str, Role]]:
    """Return (path, source, role) of every file of every known source, in a stable order.

    Raises:
        FileNotFoundError: a source of the table has no folder.
    """
    found = []
    for source, role in sorted(roles.items()):
        if not (folder / source).is_dir():
            message = f"no folder {folder / source}: collect the photographs of {source} first"
            raise FileNotFoundError(message)
        found += [(path, source, role) for path in sorted((folder / source).iterdir()) if path.is_file()]
    return found


def hash_image(image: Image.Image) -> NDArray[np.bool_]:
    """Return a perceptual hash, [256] bits: the signs of the low frequencies' horizontal differences.

    The hash survives a resize and a recompression, which is how a web site repeats one photograph.
    """
    grey = ImageOps.exif_transpose(image).convert("L").resize((HASH_SIDE + 1, HASH_SIDE), Image.Resampling.BOX)
    pixels = np.asarray(grey, dtype=np.int16)
    return (np.diff(pixels, axis=1) > 0).reshape(-1)


def read_photos(folder: Path, roles: dict[str, Role]) -> tuple[list[Photo], dict[str, int]]:
    """Open every photograph, drop repeats, and return what is left with counts of what was dropped.

    Of near-duplicates (within and across sources) the one with the most bytes stays: it is nearest to
    the camera's file.
    """
    photos: list[tuple[Photo, NDArray[np.bool_]]] = []
    dropped = {"unreadable": 0, "near_duplicate": 0}
    largest_first = sorted(list_photos(folder, roles), key=lambda item: (-item[0].stat().st_size, item[0].name))
    for path, source, role in largest_first:
        try:
            with Image.open(io.BytesIO(path.read_bytes())) as image:
                photo = Photo(path, source, role, read_exif(image), read_camera(image))
                image.draft("L", (256, 256))
                bits = hash_image(image)
        except (OSError, ValueError, SyntaxError):  # Pillow leaks SyntaxError on broken PNG and TIFF
            dropped["unreadable"] += 1
            continue
        if is_repeat(bits, (known for _, known in photos)):
            dropped["near_duplicate"] += 1
            continue
        photos.append((photo, bits))
    return sorted((photo for photo, _ in photos), key=lambda photo: str(photo.path)), dropped


def is_repeat(bits: NDArray[np.bool_], known: Iterable[NDArray[np.bool_]]) -> bool:
    """Return whether `bits` lie within `NEAR_DUPLICATE_BITS` of a known hash."""
    table = np.array(list(known))
    return bool(table.size) and int((table ^ bits).sum(axis=1).min()) <= NEAR_DUPLICATE_BITS
