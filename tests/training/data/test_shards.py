"""Shards: pictures on disk that are read when they are indexed."""

import pickle
from pathlib import Path

import numpy as np
import pytest

from training.data.shards import ImageRows, load_role, write_index, write_shard

SIDE = 6


def write_faces(run: Path, role: str, counts: list[int]) -> np.ndarray:
    """Write shards of random small pictures and return all of them, [N, 6, 6, 3]."""
    rng = np.random.default_rng(0)
    written = []
    for number, count in enumerate(counts):
        pictures = rng.integers(0, 256, (count, SIDE, SIDE, 3), dtype=np.uint8)
        start = sum(counts[:number])
        table = {
            "landmarks": np.zeros((count, 68, 2), np.float32),
            "tags": np.full((count, 4), np.nan),
            "photos": np.array([f"photo {start + row}" for row in range(count)]),
            "sources": np.array(["s" * (number + 1)] * count),
            "cameras": np.array([""] * count),
            "short_sides": np.arange(start, start + count, dtype=np.float64),
            "jpeg_qualities": np.full(count, 92, np.int16),
        }
        images = {"crops": list(pictures), "wide": list(255 - pictures)}
        write_shard(run / "faces" / role / f"{number:06}", images, table)
        written.append(pictures)
    return np.concatenate(written)


@pytest.fixture
def run(tmp_path: Path) -> tuple[Path, np.ndarray, np.ndarray]:
    """A run of three shards with an index of some faces; the rows, and all pictures."""
    pictures = write_faces(tmp_path, "train", [4, 1, 5])
    rows = np.array([0, 2, 3, 4, 6, 9])
    write_index(tmp_path, "train", ["000000", "000001", "000002"], [4, 1, 5], rows)
    return tmp_path, rows, pictures


@pytest.mark.parametrize("key", [0, -1, np.int64(3), slice(1, 5, 2), np.array([5, 0, 0]), np.array([], dtype=int)])
def test_rows_index_as_an_array(run: tuple[Path, np.ndarray, np.ndarray], key: object) -> None:
    """A number, a slice and an array of numbers give the same as for an array in memory."""
    folder, rows, pictures = run
    faces = load_role(folder, "train")
    assert np.array_equal(faces.crops[key], pictures[rows][key])
    assert np.array_equal(faces.wide[key], 255 - pictures[rows][key])


def test_the_table_follows_the_index(run: tuple[Path, np.ndarray, np.ndarray]) -> None:
    """Names and sizes are those of the indexed faces of all shards, in order."""
    folder, rows, pictures = run
    faces = load_role(folder, "train")
    assert len(faces) == len(rows)
    assert faces.crops.shape == (len(rows), SIDE, SIDE, 3)
    assert faces.photos.tolist() == [f"photo {row}" for row in rows]
    assert faces.sources.tolist() == ["s", "s", "s", "ss", "sss", "sss"]
    assert np.array_equal(np.asarray(faces.crops), pictures[rows])
    assert np.array_equal(np.stack(list(faces.crops)), pictures[rows])


def test_selected_pictures_stay_on_disk(run: tuple[Path, np.ndarray, np.ndarray]) -> None:
    """A selection, by numbers or by a mask, reads nothing until it is indexed."""
    folder, rows, pictures = run
    faces = load_role(folder, "train")
    half = faces.select(np.arange(len(faces)) % 2 == 1).select(np.array([2, 0]))
    assert isinstance(half.wide, ImageRows)
    assert np.array_equal(np.asarray(half.wide), 255 - pictures[rows[[5, 1]]])
    assert half.short_sides.tolist() == [9.0, 2.0]


def test_worker_processes_get_paths_and_not_pictures(run: tuple[Path, np.ndarray, np.ndarray]) -> None:
    """The data sent to another process is small, and the process maps the same pictures."""
    faces = load_role(run[0], "train")
    sent = pickle.dumps(faces.wide)
    assert len(sent) < 2000
    assert np.array_equal(pickle.loads(sent)[:], faces.wide[:])  # noqa: S301 - dumped by this test


def test_a_shard_is_replaced_completely(tmp_path: Path) -> None:
    """Writing a shard again removes the old one and a partial one."""
    write_faces(tmp_path, "fit", [3])
    (tmp_path / "faces" / "fit" / "000000.partial").mkdir()
    (tmp_path / "faces" / "fit" / "000000.partial" / "crops.npy").write_bytes(b"half")
    write_faces(tmp_path, "fit", [2])
    assert sorted(path.name for path in (tmp_path / "faces" / "fit").iterdir()) == ["000000"]
    assert np.load(tmp_path / "faces" / "fit" / "000000" / "crops.npy").shape == (2, SIDE, SIDE, 3)


def test_an_unfinished_run_is_refused(tmp_path: Path) -> None:
    """Shards without an index are not used, because `prepare` has not finished."""
    write_faces(tmp_path, "train", [2])
    with pytest.raises(FileNotFoundError, match="run `unlensed-train prepare` until it finishes"):
        load_role(tmp_path, "train")
