"""Faces cut from photographs, in shards on disk: what `prepare` writes and training reads.

A shard is a folder `faces/<role>/<number>` of `crops.npy`, `wide.npy` and `table.npz`. Pictures are mapped into memory
and gathered when they are asked for; the tables, about 1 kB a face, are read whole. The index of a role,
`faces/<role>/index.npz`, says which rows are in use: not those that repeat others.
"""

import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

WIDE_SIZE = 320
INDEX, TABLE = "index.npz", "table.npz"
Rows = NDArray[np.integer[Any]]


class ImageRows:
    """[N, S, S, 3] uint8 pictures in files, mapped into memory; only what is indexed is read.

    Indexing by a number, a slice or an array of numbers returns a new array; `select` returns rows still on disk.

    Attributes:
        shape: as of an array.
        dtype: uint8.
    """

    def __init__(self, paths: Sequence[Path], places_N2: Rows) -> None:
        """Map `paths`; row i is row `places_N2[i, 1]` of the file `places_N2[i, 0]`."""
        self._paths, self._places = tuple(paths), places_N2
        # An array's `base` keeps the mapping; a memmap object would be slower to index.
        self._files = [np.asarray(np.load(path, mmap_mode="r", allow_pickle=False)) for path in self._paths]
        side = self._files[0].shape[1] if self._files else 0
        self.shape = (len(places_N2), side, side, 3)
        self.dtype = np.dtype(np.uint8)

    def __reduce__(self) -> tuple[Any, ...]:
        # A worker process maps the files again instead of being sent their bytes.
        return type(self), (self._paths, self._places)

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        return (self[row] for row in range(len(self)))

    def __getitem__(self, key: int | np.integer[Any] | slice | NDArray[np.generic]) -> NDArray[np.uint8]:
        places = self._places[key]
        if places.ndim == 1:
            return np.array(self._files[places[0]][places[1]])
        gathered = np.empty((len(places), *self.shape[1:]), dtype=np.uint8)
        for row, (file, place) in enumerate(places):
            gathered[row] = self._files[file][place]
        return gathered

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:  # noqa: ANN401, FBT001 - NumPy's protocol
        if copy is False:
            message = "pictures on disk can only be copied into an array"
            raise ValueError(message)
        return self[:].astype(dtype or np.uint8, copy=False)

    def select(self, rows: NDArray[np.generic]) -> "ImageRows":
        """Return the pictures of `rows` (indices or a mask), still on disk."""
        chosen = type(self).__new__(type(self))
        chosen.__dict__.update(self.__dict__)
        chosen._places = self._places[rows]  # noqa: SLF001 - of its own class
        chosen.shape = (len(chosen._places), *self.shape[1:])  # noqa: SLF001 - of its own class
        return chosen


Images = NDArray[np.uint8] | ImageRows


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

    crops: Images
    wide: Images
    landmarks: NDArray[np.float32]
    tags: NDArray[np.float64]
    photos: NDArray[np.str_]
    sources: NDArray[np.str_]
    cameras: NDArray[np.str_]
    short_sides: NDArray[np.float64]

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
    """Write a shard; the rename makes it whole or absent.

    Args:
        folder: of the shard; what is there is replaced.
        pictures: equally large ones by the name of their file.
        table: arrays with a row for each face.

    Raises:
        OSError: the disk is full, among others.
    """
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for name, images in pictures.items():
        with (partial / f"{name}.npy").open("wb") as handle:
            header = {"descr": "|u1", "fortran_order": False, "shape": (len(images), *images[0].shape)}
            np.lib.format.write_array_header_1_0(handle, header)
            for image in images:
                # Not through a map: a full disk would end the process by a signal instead of an error.
                handle.write(np.ascontiguousarray(image).data)
    np.savez(partial / TABLE, **table)  # type: ignore[arg-type]  # the stub takes every name for `allow_pickle`
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


def read_tables(folders: Iterable[Path], names: Iterable[str]) -> dict[str, NDArray[Any]]:
    """Return the named columns of several shards, one after the other."""
    names = tuple(names)
    columns: dict[str, list[NDArray[Any]]] = {name: [] for name in names}
    for folder in folders:
        with np.load(folder / TABLE, allow_pickle=False) as arrays:
            for name in names:
                columns[name].append(arrays[name])
    return {name: np.concatenate(parts) for name, parts in columns.items()}


def write_index(run: Path, role: str, shards: Sequence[str], counts: Sequence[int], rows: Rows) -> None:
    """Say which faces of a role are in use.

    Args:
        run: the run folder.
        role: whose shards they are.
        shards: names of the shards.
        counts: their numbers of faces.
        rows: the faces in use, counted through all shards.
    """
    path = run / "faces" / role / INDEX
    partial = path.with_suffix(".partial.npz")
    np.savez(partial, shards=np.array(shards, dtype=np.str_), counts=np.array(counts), rows=rows)
    partial.replace(path)


def load_role(run: Path, role: str) -> FaceSet:
    """Return the faces of a role, each once; their pictures stay on disk until they are indexed.

    Raises:
        FileNotFoundError: `prepare` has written none for it, or has not come to its end.
    """
    folder = run / "faces" / role
    if not (folder / INDEX).is_file():
        message = f"no faces in {folder}: run `unlensed-train prepare` first, to its end"
        raise FileNotFoundError(message)
    with np.load(folder / INDEX, allow_pickle=False) as index:
        shards, counts, rows = [folder / str(name) for name in index["shards"]], index["counts"], index["rows"]
    table = read_tables(shards, TABLE_FIELDS)
    starts = np.cumsum(counts) - counts
    files = np.searchsorted(starts, rows, "right") - 1
    places = np.stack([files, rows - starts[files]], axis=1).astype(np.int32)
    return FaceSet(
        crops=ImageRows([shard / "crops.npy" for shard in shards], places),
        wide=ImageRows([shard / "wide.npy" for shard in shards], places),
        **{name: column[rows] for name, column in table.items()},
    )
