"""Shards of faces on disk: `prepare` writes them and training reads them.

A shard is a folder `faces/<role>/<number>` with `crops.npy`, `wide.npy` and `table.npz`. Pictures are memory-mapped and
read when they are indexed. Tables, about 1 kB a face, are read completely. The index of a role,
`faces/<role>/index.npz`, lists the rows in use, without duplicates.
"""

import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from scorer.files import write_and_rename

LAYOUT = 2  # version of the shards; a run folder with another version is refused
WIDE_SIZE = 320
INDEX, TABLE = "index.npz", "table.npz"
SETTINGS = Path("faces", "chunks", "settings.json")  # in a run folder: how its faces were cut
Rows = NDArray[np.integer[Any]]


class ImageRows:
    """[N, S, S, 3] uint8 pictures in memory-mapped files; only indexed pictures are read.

    An index of a number, a slice or an array of numbers returns a new array; `select` returns rows that stay on disk.

    Attributes:
        shape: as of an array.
        dtype: uint8.
    """

    def __init__(self, paths: Sequence[Path], locations_N2: Rows) -> None:
        """Map `paths`; row i is row `locations_N2[i, 1]` of the file `locations_N2[i, 0]`."""
        self._paths, self._locations = tuple(paths), locations_N2
        # An array's `base` keeps the mapping; a memmap object would be slower to index.
        self._files = [np.asarray(np.load(path, mmap_mode="r", allow_pickle=False)) for path in self._paths]
        side = self._files[0].shape[1] if self._files else 0
        self.shape = (len(locations_N2), side, side, 3)
        self.dtype = np.dtype(np.uint8)

    def __reduce__(self) -> tuple[Any, ...]:
        # A worker process maps the files again; their bytes are not sent to it.
        return type(self), (self._paths, self._locations)

    def __len__(self) -> int:
        return len(self._locations)

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        return (self[row] for row in range(len(self)))

    def __getitem__(self, key: int | np.integer[Any] | slice | NDArray[np.generic]) -> NDArray[np.uint8]:
        locations = self._locations[key]
        if locations.ndim == 1:
            return np.array(self._files[locations[0]][locations[1]])
        gathered = np.empty((len(locations), *self.shape[1:]), dtype=np.uint8)
        for row, (file, file_row) in enumerate(locations):
            gathered[row] = self._files[file][file_row]
        return gathered

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:  # noqa: ANN401, FBT001 - NumPy's protocol
        if copy is False:
            message = "pictures on disk cannot become an array without a copy"
            raise ValueError(message)
        return self[:].astype(dtype or np.uint8, copy=False)

    def select(self, rows: NDArray[np.generic]) -> "ImageRows":
        """Return the pictures of `rows` (indices or a mask), still on disk."""
        chosen = type(self).__new__(type(self))
        chosen.__dict__.update(self.__dict__)
        chosen._locations = self._locations[rows]  # noqa: SLF001 - of its own class
        chosen.shape = (len(chosen._locations), *self.shape[1:])  # noqa: SLF001 - of its own class
        return chosen


Images = NDArray[np.uint8] | ImageRows


@dataclass(frozen=True, slots=True, eq=False)
class FaceSet:
    """N faces.

    Attributes:
        crops: [N, 224, 224, 3] uint8, exactly as served.
        wide: [N, 320, 320, 3] uint8, the same window at a higher resolution, for the manipulation task.
        landmarks: [N, 68, 2] in pixels of `wide`.
        tags: [N, 4] in the order of `TAG_NAMES`, NaN where absent.
        photos: [N] name of the photograph.
        sources: [N] source of the photograph.
        cameras: [N] make and model, empty where absent.
        short_sides: [N] shorter side of the visible part of the face box in pixels of the photograph.
        jpeg_qualities: [N] of the photograph, 1..100 (`ingest.image_metadata`); 0 if it is no JPEG.
    """

    crops: Images
    wide: Images
    landmarks: NDArray[np.float32]
    tags: NDArray[np.float64]
    photos: NDArray[np.str_]
    sources: NDArray[np.str_]
    cameras: NDArray[np.str_]
    short_sides: NDArray[np.float64]
    jpeg_qualities: NDArray[np.int16]

    def __len__(self) -> int:
        return len(self.crops)

    def select(self, rows: NDArray[np.generic]) -> Self:
        """Return the faces of `rows` (indices or a mask); pictures on disk stay there."""
        chosen: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            chosen[field.name] = value.select(rows) if isinstance(value, ImageRows) else value[rows]
        return type(self)(**chosen)


TABLE_FIELDS = tuple(field.name for field in fields(FaceSet) if field.name not in {"crops", "wide"})


def write_shard(folder: Path, pictures: dict[str, list[NDArray[np.uint8]]], table: dict[str, NDArray[Any]]) -> None:
    """Write a shard to a partial folder and rename it, so that it is complete or absent.

    Args:
        folder: of the shard; an existing one is replaced.
        pictures: pictures of one size, by the name of their file.
        table: arrays with one row for each face.

    Raises:
        OSError: for example, the disk is full.
    """
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for name, images in pictures.items():
        with (partial / f"{name}.npy").open("wb") as handle:
            header = {"descr": "|u1", "fortran_order": False, "shape": (len(images), *images[0].shape)}
            np.lib.format.write_array_header_1_0(handle, header)
            for image in images:
                # Not memory-mapped: a full disk would then kill the process with SIGBUS instead of raising an error.
                handle.write(np.ascontiguousarray(image).data)
    np.savez(partial / TABLE, **table)  # type: ignore[arg-type]  # the stub takes every name for `allow_pickle`
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


def read_tables(folders: Iterable[Path], names: Iterable[str]) -> dict[str, NDArray[Any]]:
    """Return the named columns of several shards, concatenated.

    Raises:
        ValueError: a shard lacks a column: an earlier release wrote it.
    """
    names = tuple(names)
    columns: dict[str, list[NDArray[Any]]] = {name: [] for name in names}
    for folder in folders:
        with np.load(folder / TABLE, allow_pickle=False) as arrays:
            if missing := [name for name in names if name not in arrays.files]:
                message = f"{folder} has no {', '.join(missing)}: prepare the photographs again in a new run folder"
                raise ValueError(message)
            for name in names:
                columns[name].append(arrays[name])
    return {name: np.concatenate(parts) for name, parts in columns.items()}


def write_index(run: Path, role: str, shards: Sequence[str], counts: Sequence[int], rows: Rows) -> None:
    """Write the index of a role: the faces in use.

    Args:
        run: the run folder.
        role: the role.
        shards: names of its shards.
        counts: number of faces in each shard.
        rows: the faces in use, as rows of all shards together.
    """
    path = run / "faces" / role / INDEX
    names = np.array(shards, dtype=np.str_)
    table = {"layout": np.array(LAYOUT), "shards": names, "counts": np.array(counts), "rows": rows}
    write_and_rename(path.with_suffix(".partial.npz"), path, lambda file: np.savez(file, **table))  # type: ignore[arg-type]  # as above


def load_role(run: Path, role: str) -> FaceSet:
    """Return the faces of a role without duplicates; the pictures stay on disk until they are indexed.

    Raises:
        FileNotFoundError: the role has no faces, or `prepare` has not finished.
        ValueError: another version of `prepare` wrote them.
    """
    folder = run / "faces" / role
    if not (folder / INDEX).is_file():
        message = f"{folder} has no index of faces: run `unlensed-train prepare` until it finishes"
        raise FileNotFoundError(message)
    with np.load(folder / INDEX, allow_pickle=False) as index:
        if "layout" not in index.files or index["layout"] != LAYOUT:
            message = (
                f"{run} was prepared by a version of `unlensed-train prepare` that selected faces in another way: "
                "prepare the photographs again, in another run folder"
            )
            raise ValueError(message)
        shards, counts, rows = [folder / str(name) for name in index["shards"]], index["counts"], index["rows"]
    table = read_tables(shards, TABLE_FIELDS)
    starts = np.cumsum(counts) - counts
    files = np.searchsorted(starts, rows, "right") - 1
    locations = np.stack([files, rows - starts[files]], axis=1).astype(np.int32)
    return FaceSet(
        crops=ImageRows([shard / "crops.npy" for shard in shards], locations),
        wide=ImageRows([shard / "wide.npy" for shard in shards], locations),
        **{name: column[rows] for name, column in table.items()},
    )
