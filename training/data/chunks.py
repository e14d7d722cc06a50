"""Photographs into shards, a chunk at a time, so that whatever ends a run, the next one goes on where it was.

A chunk is a run of photographs in the inputs' fixed order. Its shards are written first, then the record
`faces/chunks/<number>.json` that makes them count; a digest of names, sources and roles tells whether a record still
stands for the same photographs. When all are done, repeats are found and the roles' indices written.
"""

import errno
import hashlib
import itertools
import json
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ingest.spec import MIN_VISIBLE_SHARE
from scorer.commands.progress import Progress
from scorer.errors import TrainingInterrupted
from training.data.cutting import CutFace, FaceCutter, FoundFace
from training.data.photos import ROLES, Photo, PhotoSource, Role
from training.data.roles import RoleRule
from training.data.shards import INDEX, WIDE_SIZE, write_shard

LAYOUT = 1  # of the shards; a run folder of another layout is not continued
FACES_A_CHUNK, PHOTOS_A_CHUNK, PHOTOS_AT_ONCE = 256, 1024, 16
FACE_BYTES = 3 * (224 * 224 + WIDE_SIZE * WIDE_SIZE)
NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class PrepareProgress(Progress):
    """Counts photographs, and beside them the faces of this run."""

    faces = 0

    def count(self, photos: int, faces: int) -> None:
        """Count more photographs and faces."""
        self.faces += faces
        self.advance(photos, faces=self.faces, faces_per_s=round(self.faces / self.elapsed_s, 2))


@dataclass(slots=True)
class ChunkRecord:
    """What a chunk was made of and what came out of it."""

    photos: int
    digest: str
    faces: dict[str, int]
    dropped: list[list[Any]]
    refused: list[list[Any]]


@dataclass(slots=True)
class Inputs:
    """All inputs of a run as one stream with roles.

    Attributes:
        sources: read one after the other.
        roles: gives each source its role.
        without_role: photographs of sources without a role, by source.
        unlisted: what the layouts left out, by input and reason.
    """

    sources: Sequence[PhotoSource]
    roles: RoleRule
    without_role: Counter[str] = field(default_factory=Counter)
    unlisted: Counter[tuple[str, str]] = field(default_factory=Counter)

    def stream(self) -> Iterator[tuple[Photo, Role]]:
        """Yield the photographs that have a role, always in the same order."""
        self.without_role.clear()
        self.unlisted.clear()
        for source in self.sources:
            for photo in source.list_photos():
                role = self.roles.assign(photo)
                if role is None:
                    self.without_role[photo.source] += 1
                else:
                    yield photo, role
            for reason, count in source.dropped.items():
                self.unlisted[source.describe(), reason] += count


def prepare_photos(
    run: Path, inputs: Inputs, cutter: FaceCutter, progress: PrepareProgress, faces_a_chunk: int = FACES_A_CHUNK
) -> list[ChunkRecord]:
    """Bring the shards of `run` up to date with the inputs and return the records of all chunks.

    Raises:
        FileNotFoundError: the inputs hold no photograph with a role.
        Interrupted: Ctrl-C, or the disk is full.
        ValueError: `run` was prepared with other settings, or an input is damaged.
    """
    chunks = run / "faces" / "chunks"
    with stopping_in_a_sentence(run, progress):
        chunks.mkdir(parents=True, exist_ok=True)
        check_settings(chunks / "settings.json", cutter)
        records, total = check_records(chunks, inputs)
        if not total:
            message = "no photograph with a role was found: check the folders and the roles table"
            raise FileNotFoundError(message)
        done = sum(record.photos for record in records)
        progress.begin(total, done)
        drop_rest(run, len(records), keep_indices=done == total)
        rest = itertools.islice(inputs.stream(), done, None)
        maker = ChunkMaker(run, cutter, progress, faces_a_chunk)
        while record := maker.make(len(records), rest):
            records.append(record)
    return records


@contextmanager
def stopping_in_a_sentence(run: Path, progress: PrepareProgress) -> Iterator[None]:
    """Turn Ctrl-C and a full disk into a sentence; whatever was recorded by then is not done again.

    Raises:
        Interrupted: with the sentence.
    """
    try:
        yield
    except KeyboardInterrupt as error:
        message = f"stopped after {describe_state(progress)}: the same command goes on from there"
        raise TrainingInterrupted(message) from error
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        need = FACE_BYTES * ((progress.total or 0) - progress.done) * progress.faces / max(progress.done, 1)
        message = (
            f"no room is left for {run} after {describe_state(progress)}: "
            f"free about {max(need, 2**28) / 2**30:.1f} GiB, then the same command goes on from there"
        )
        raise TrainingInterrupted(message) from error


def describe_state(progress: PrepareProgress) -> str:
    """Return how far it came."""
    return f"{progress.done} of {progress.total} photographs" if progress.total else "listing some photographs"


def check_settings(path: Path, cutter: FaceCutter) -> None:
    """Write what faces are cut with, or compare it with what they were cut with.

    Raises:
        ValueError: something differs.
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


def check_records(chunks: Path, inputs: Inputs) -> tuple[list[ChunkRecord], int]:
    """Return the records that still stand for the inputs' first photographs, and the number of all photographs."""
    records: list[ChunkRecord] = []
    stream = inputs.stream()
    total = 0
    for number in itertools.count():
        path = chunks / f"{number:06}.json"
        if not path.exists():
            break
        record = ChunkRecord(**json.loads(path.read_text(encoding="utf-8")))
        taken = list(itertools.islice(stream, record.photos))
        total += len(taken)
        if len(taken) != record.photos or digest(taken) != record.digest:
            break
        records.append(record)
    return records, total + sum(1 for _ in stream)


def digest(photos: Sequence[tuple[Photo, Role]]) -> str:
    """Return a digest of what the photographs are called, where they are from and what they are for."""
    listed = json.dumps([(photo.name, photo.source, role) for photo, role in photos])
    return hashlib.sha256(listed.encode()).hexdigest()


def drop_rest(run: Path, chunks: int, *, keep_indices: bool) -> None:
    """Remove the records and shards from chunk number `chunks` on, and what a run that was ended left half done."""
    for path in (run / "faces" / "chunks").glob("[0-9]*.json*"):
        if path.suffix != ".json" or int(path.stem) >= chunks:
            path.unlink()
    for role in ROLES:
        folder = run / "faces" / role
        if not keep_indices:
            (folder / INDEX).unlink(missing_ok=True)
        for path in folder.glob("[0-9]*"):
            if path.is_dir() and (not path.name.isdigit() or int(path.name) >= chunks):
                shutil.rmtree(path)


@dataclass(frozen=True, slots=True)
class ChunkMaker:
    """Makes chunks out of a stream of photographs.

    Attributes:
        run: the run folder.
        cutter: cuts the faces.
        progress: is told of photographs and faces.
        faces_a_chunk: with how many faces a chunk is full; bounds memory, and what a kill costs.
    """

    run: Path
    cutter: FaceCutter
    progress: PrepareProgress
    faces_a_chunk: int

    def make(self, number: int, photos: Iterator[tuple[Photo, Role]]) -> ChunkRecord | None:
        """Cut the next photographs, write their shards and their record; None when there are no more photographs."""
        self.cutter.dropped.clear()
        self.cutter.refused.clear()
        taken: list[tuple[Photo, Role]] = []
        cut: list[tuple[int, CutFace]] = []
        while len(cut) < self.faces_a_chunk and len(taken) < PHOTOS_A_CHUNK:
            batch = self._cut_batch(photos, taken)
            if batch is None:
                break
            cut += batch
        if not taken:
            return None
        counts: dict[str, int] = {}
        for role in ROLES:
            mine = [(place, face) for place, face in cut if taken[place][1] == role]
            if mine:
                write_faces(self.run / "faces" / role / f"{number:06}", mine)
                counts[role] = len(mine)
        dropped, refused = _as_rows(self.cutter.dropped), _as_rows(self.cutter.refused)
        record = ChunkRecord(len(taken), digest(taken), counts, dropped, refused)
        write_json(self.run / "faces" / "chunks" / f"{number:06}.json", asdict(record))
        return record

    def _cut_batch(
        self, photos: Iterator[tuple[Photo, Role]], taken: list[tuple[Photo, Role]]
    ) -> list[tuple[int, CutFace]] | None:
        """Return the faces of the next photographs, each with its photograph's place in `taken`, which grows."""
        found: list[FoundFace] = []
        places: dict[int, int] = {}
        before = len(taken)
        for photo, role in itertools.islice(photos, PHOTOS_AT_ONCE):
            faces = self.cutter.find(photo)  # before the next photograph: its bytes may be gone then
            places |= {id(face.origin): len(taken) for face in faces}
            found += faces
            taken.append((photo, role))
        if len(taken) == before:
            return None
        cut = [(places[id(face.origin)], face) for face in self.cutter.cut(found)]
        self.progress.count(len(taken) - before, len(cut))
        return cut


def write_faces(folder: Path, faces: Sequence[tuple[int, CutFace]]) -> None:
    """Write one shard; the numbers tell the photographs of a chunk apart."""
    cut = [face for _, face in faces]
    table = {
        "landmarks": np.stack([face.landmarks for face in cut]),
        "tags": np.array([face.origin.exif.tags.as_floats() for face in cut]),
        "photos": np.array([face.origin.photo.name for face in cut]),
        "sources": np.array([face.origin.photo.source for face in cut]),
        "cameras": np.array([face.origin.exif.camera for face in cut]),
        "short_sides": np.array([face.short_side for face in cut]),
        "photo_numbers": np.array([number for number, _ in faces]),
        "photo_bytes": np.array([face.origin.byte_count for face in cut]),
        "photo_hashes": np.stack([face.origin.hashed for face in cut]),
        "face_hashes": np.stack([face.hashes for face in cut]),
    }
    write_shard(folder, {"crops": [face.crop for face in cut], "wide": [face.wide for face in cut]}, table)


def write_json(path: Path, content: object) -> None:
    """Write JSON; the rename makes the file whole or absent."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(content) + "\n", encoding="utf-8")
    partial.replace(path)


def _as_rows(counter: Counter[tuple[str, str]]) -> list[list[Any]]:
    return [[source, reason, count] for (source, reason), count in counter.items()]
