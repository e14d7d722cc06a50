"""Write the faces of photographs into shards, chunk by chunk, so that an interrupted run can resume.

A chunk is a sequence of photographs in the fixed order of the inputs. Its shards are written first, then the record
`faces/chunks/<number>.json`, which makes the chunk valid. `faces/chunks/inputs.json` states the photographs of the run,
so that a later call with others is refused. After the last chunk, duplicates are removed and the index of each role is
written.
"""

import errno
import itertools
import json
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ingest.spec import MIN_VISIBLE_SHARE
from scorer.commands.progress import Progress
from scorer.errors import TrainingInterrupted
from scorer.files import replace_file
from training.data.cutting import CutFace, FaceCutter, FoundFace
from training.data.inputs import Inputs, check_inputs
from training.data.photos import ROLES, Photo, Role
from training.data.shards import INDEX, LAYOUT, SETTINGS, WIDE_SIZE, write_shard

FACES_PER_CHUNK, PHOTOS_PER_CHUNK, PHOTOS_PER_BATCH = 256, 1024, 16
FACE_BYTES = 3 * (224 * 224 + WIDE_SIZE * WIDE_SIZE)
DISK_FULL_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class PrepareProgress(Progress):
    """The progress of `prepare`: photographs, and the faces found by this process."""

    faces = 0

    def count(self, photos: int, faces: int) -> None:
        """Add to the numbers of photographs and faces."""
        self.faces += faces
        self.advance(photos, faces=self.faces, faces_per_s=round(self.faces / self.elapsed_s, 2))


@dataclass(slots=True)
class ChunkRecord:
    """The content of a chunk's JSON file: its photographs and the results."""

    photos: int
    faces: dict[str, int]
    dropped: list[list[Any]]
    refused: list[list[Any]]


def prepare_photos(
    run: Path, inputs: Inputs, cutter: FaceCutter, progress: PrepareProgress, faces_per_chunk: int = FACES_PER_CHUNK
) -> list[ChunkRecord]:
    """Write the missing shards of `run` and return the records of all chunks.

    Raises:
        TrainingInterrupted: Ctrl-C, or the disk is full.
        ValueError: `run` was prepared with other settings or from other photographs, or an input is damaged.
    """
    chunks = run / "faces" / "chunks"
    with explain_interruption(run, progress):
        chunks.mkdir(parents=True, exist_ok=True)
        check_settings(run / SETTINGS, cutter)
        check_inputs(chunks / "inputs.json", inputs)
        records = read_records(chunks)
        done, total = sum(record.photos for record in records), inputs.photographs.total()
        progress.begin(total, done)
        delete_partial_files(run, len(records), keep_indices=done == total)
        rest = itertools.islice(inputs.stream(), done, None)
        writer = ChunkWriter(run, cutter, progress, faces_per_chunk)
        while record := writer.write_next(len(records), rest):
            records.append(record)
    return records


@contextmanager
def explain_interruption(run: Path, progress: PrepareProgress) -> Iterator[None]:
    """Turn Ctrl-C and a full disk into an error message that says how to resume.

    Raises:
        TrainingInterrupted: with the message.
    """
    try:
        yield
    except KeyboardInterrupt as error:
        message = f"stopped after {describe_progress(progress)}: the same command resumes from there"
        raise TrainingInterrupted(message) from error
    except OSError as error:
        if error.errno not in DISK_FULL_ERRORS:
            raise
        need = FACE_BYTES * ((progress.total or 0) - progress.done) * progress.faces / max(progress.done, 1)
        message = (
            f"the disk of {run} is full after {describe_progress(progress)}: "
            f"free about {max(need, 2**28) / 2**30:.1f} GiB; the same command then resumes from there"
        )
        raise TrainingInterrupted(message) from error


def describe_progress(progress: PrepareProgress) -> str:
    """Return the number of finished photographs in words."""
    return f"{progress.done} of {progress.total} photographs" if progress.total else "listing some photographs"


def check_settings(path: Path, cutter: FaceCutter) -> None:
    """Write the settings that faces are cut with, or compare them with those of an earlier process.

    Raises:
        ValueError: a setting differs.
    """
    settings: dict[str, Any] = {
        "layout": LAYOUT,
        "preprocess": asdict(cutter.spec),
        "wide_size": WIDE_SIZE,
        "min_face_px": cutter.min_face_px,
        "min_visible_share": MIN_VISIBLE_SHARE,
        "landmarks": cutter.landmarker.name,
    }
    settings = json.loads(json.dumps(settings))
    if not path.exists():
        write_json(path, settings)
    before = json.loads(path.read_text(encoding="utf-8"))
    differing = sorted(name for name in settings.keys() | before.keys() if settings.get(name) != before.get(name))
    if differing:
        message = (
            f"{path.parents[2]} was prepared with other settings ({', '.join(differing)}): "
            "use another run folder, or delete its `faces`"
        )
        raise ValueError(message)


def read_records(chunks: Path) -> list[ChunkRecord]:
    """Return the records of the complete chunks."""
    paths = (chunks / f"{number:06}.json" for number in itertools.count())
    present = itertools.takewhile(Path.exists, paths)
    return [ChunkRecord(**json.loads(path.read_text(encoding="utf-8"))) for path in present]


def delete_partial_files(run: Path, chunks: int, *, keep_indices: bool) -> None:
    """Delete the shards from number `chunks` on, and partial files of an interrupted process."""
    for path in (run / "faces" / "chunks").glob("[0-9]*.json?*"):
        path.unlink()
    for role in ROLES:
        folder = run / "faces" / role
        if not keep_indices:
            (folder / INDEX).unlink(missing_ok=True)
        for path in folder.glob("[0-9]*"):
            if path.is_dir() and (not path.name.isdigit() or int(path.name) >= chunks):
                shutil.rmtree(path)


@dataclass(frozen=True, slots=True)
class ChunkWriter:
    """Writes chunks from a sequence of photographs.

    Attributes:
        run: the run folder.
        cutter: cuts the faces.
        progress: counts photographs and faces.
        faces_per_chunk: number of faces that completes a chunk; bounds memory, and the work that a kill loses.
    """

    run: Path
    cutter: FaceCutter
    progress: PrepareProgress
    faces_per_chunk: int

    def write_next(self, number: int, photos: Iterator[tuple[Photo, Role]]) -> ChunkRecord | None:
        """Write the shards and the record of the next photographs; return None if none is left."""
        self.cutter.dropped.clear()
        self.cutter.refused.clear()
        taken: list[tuple[Photo, Role]] = []
        cut: list[tuple[int, CutFace]] = []
        while len(cut) < self.faces_per_chunk and len(taken) < PHOTOS_PER_CHUNK:
            batch = self._cut_batch(photos, taken)
            if batch is None:
                break
            cut += batch
        if not taken:
            return None
        counts: dict[str, int] = {}
        for role in ROLES:
            of_role = [(index, face) for index, face in cut if taken[index][1] == role]
            if of_role:
                write_faces(self.run / "faces" / role / f"{number:06}", of_role)
                counts[role] = len(of_role)
        dropped, refused = _as_rows(self.cutter.dropped), _as_rows(self.cutter.refused)
        record = ChunkRecord(len(taken), counts, dropped, refused)
        write_json(self.run / "faces" / "chunks" / f"{number:06}.json", asdict(record))
        return record

    def _cut_batch(
        self, photos: Iterator[tuple[Photo, Role]], taken: list[tuple[Photo, Role]]
    ) -> list[tuple[int, CutFace]] | None:
        """Append the next photographs to `taken`; return their faces, each with the index of its photograph there."""
        found: list[FoundFace] = []
        indices: dict[int, int] = {}
        before = len(taken)
        for photo, role in itertools.islice(photos, PHOTOS_PER_BATCH):
            faces = self.cutter.find(photo)  # before the next photograph, which may invalidate this one's bytes
            indices |= {id(face.origin): len(taken) for face in faces}
            found += faces
            taken.append((photo, role))
        if len(taken) == before:
            return None
        cut = [(indices[id(face.origin)], face) for face in self.cutter.cut(found)]
        self.progress.count(len(taken) - before, len(cut))
        return cut


def write_faces(folder: Path, faces: Sequence[tuple[int, CutFace]]) -> None:
    """Write one shard. The number beside each face identifies its photograph within the chunk."""
    cut = [face for _, face in faces]
    table = {
        "landmarks": np.stack([face.landmarks for face in cut]),
        "tags": np.array([face.origin.exif.tags.as_floats() for face in cut]),
        "photos": np.array([face.origin.photo.name for face in cut]),
        "sources": np.array([face.origin.photo.source for face in cut]),
        "cameras": np.array([face.origin.exif.camera for face in cut]),
        "short_sides": np.array([face.short_side for face in cut]),
        "jpeg_qualities": np.array([face.origin.jpeg_quality for face in cut], dtype=np.int16),
        "photo_numbers": np.array([number for number, _ in faces]),
        "photo_bytes": np.array([face.origin.byte_count for face in cut]),
        "photo_hashes": np.stack([face.origin.hashed for face in cut]),
        "face_hashes": np.stack([face.hashes for face in cut]),
    }
    write_shard(folder, {"crops": [face.crop for face in cut], "wide": [face.wide for face in cut]}, table)


def write_json(path: Path, content: object) -> None:
    """Write JSON, completely or not at all."""
    replace_file(path, (json.dumps(content) + "\n").encode())


def _as_rows(counter: Counter[tuple[str, str]]) -> list[list[Any]]:
    return [[source, reason, count] for (source, reason), count in counter.items()]
