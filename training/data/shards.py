"""Faces cut from photographs, one array file per source: what `prepare` writes and training reads."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from training.data.photos import hash_image

WIDE_SIZE = 320
REPEATED_FACE_BITS = (
    40  # of 256; measured: two faces of one role differ in 50 and more but for a few in ten thousand pairs
)


@dataclass(frozen=True, slots=True, eq=False)
class FaceSet:
    """N faces.

    Attributes:
        crops: [N, 224, 224, 3] uint8 as serving cuts them.
        wide: [N, 320, 320, 3] uint8, the same window at a finer size, for manipulations.
        landmarks: [N, 68, 2] in pixels of `wide`.
        tags: [N, 4] in the order of `TAG_NAMES`, NaN where absent.
        photos: [N] name of the photograph.
        sources: [N] source of the photograph.
        cameras: [N] make and model, empty where absent.
        short_sides: [N] shorter side of the face box in pixels of the photograph.
    """

    crops: NDArray[np.uint8]
    wide: NDArray[np.uint8]
    landmarks: NDArray[np.float32]
    tags: NDArray[np.float64]
    photos: NDArray[np.str_]
    sources: NDArray[np.str_]
    cameras: NDArray[np.str_]
    short_sides: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.crops)

    def select(self, rows: NDArray[np.generic]) -> Self:
        """Return the faces of `rows` (indices or a mask)."""
        return type(self)(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})

    def save(self, path: Path) -> None:
        """Write the arrays; the rename makes the file whole or absent."""
        partial = path.with_suffix(".partial.npz")
        np.savez(partial, **{field.name: getattr(self, field.name) for field in fields(self)})
        partial.replace(path)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a file that `save` wrote."""
        with np.load(path, allow_pickle=False) as arrays:
            return cls(**{field.name: arrays[field.name] for field in fields(cls)})


def load_role(run: Path, role: str) -> FaceSet:
    """Read all sources of a role, each face once.

    Raises:
        FileNotFoundError: `prepare` has written none for it.
    """
    paths = sorted((run / "faces" / role).glob("*.npz"))
    if not paths:
        message = f"no faces in {run / 'faces' / role}: run `unlensed-train prepare` first"
        raise FileNotFoundError(message)
    sets = [FaceSet.load(path) for path in paths]
    merged = FaceSet(*(np.concatenate([getattr(part, field.name) for part in sets]) for field in fields(FaceSet)))
    return merged.select(find_distinct(merged))


def find_distinct(faces: FaceSet) -> NDArray[np.intp]:
    """Return the rows that repeat no other face; of repeats the largest in its photograph stays.

    Whole photographs were compared when they were read; this finds one portrait cut, turned, marked or
    filtered in several ways, of which a web site shows many and which would count as many faces.
    """
    images = [Image.fromarray(crop) for crop in faces.crops]
    upright = np.array([hash_image(image) for image in images])
    turned = np.array([[hash_image(image.rotate(90 * turns)) for turns in range(4)] for image in images])
    kept: list[int] = []
    for row in np.argsort(-faces.short_sides, kind="stable"):
        if not kept or int((turned[row][:, None] ^ upright[kept]).sum(axis=-1).min()) > REPEATED_FACE_BITS:
            kept.append(int(row))
    return np.sort(np.array(kept, dtype=np.intp))
