"""Cut faces as windows with the pixels of their files (no resampling), and keep them on disk.

The scorer's code finds the faces and computes the windows. Pictures are cut in chunks: `<number>.bin` contains the
pixels of the windows, and `<number>.json`, which is written last, makes the chunk valid. So an interrupted call
resumes, and a later call detects nothing again.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import IO, Self, overload

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from ingest.damage import measure_damage
from ingest.decode import decode_reduced
from ingest.detect import DetectorSpec, load_detector
from ingest.orientation import turn_upright
from ingest.probe import EncodedFace, strip_metadata
from ingest.reasons import Unscorable
from ingest.spec import PreprocessSpec
from scorer.commands.progress import Progress
from scorer.files import replace_file, write_and_rename
from training.data.detector import SPEC, copy_detector
from training.evaluation.detectors.base import Picture
from training.evaluation.generated import Part, PictureCutter, draw_pictures
from training.run_lock import hold_folder
from training.run_recipe import read_cut

LAYOUT = 1  # version of the files
MAX_PICTURES = 25_000  # as many as the paper has of CelebA-HQ
PIXELS = ".bin"
WINDOWS = "windows"  # folder in a run
PICTURES_PER_CHUNK = 64  # bounds the work that a kill loses


@dataclass(frozen=True, slots=True)
class CutRule:
    """How faces are found and cut.

    Attributes:
        weights: folder of a bundle or run, which contains the weights of the face detector.
        detector: its thresholds.
        preprocess: its margin determines the window.
        part: the most confident "face" of a picture, or the whole "image".
        threads: of the detector.
    """

    weights: Path
    detector: DetectorSpec = SPEC
    preprocess: PreprocessSpec = field(default_factory=PreprocessSpec)
    part: Part = "face"
    threads: int = 2

    @classmethod
    def of_run(cls, run: Path, threads: int) -> Self:
        """Return the rule that cuts as the faces of a run are cut; the face detector is written to the run."""
        return cls(copy_detector(run).parents[2], preprocess=read_cut(run), threads=threads)

    def open_cutter(self) -> PictureCutter:
        """Return a cutter; only its `locate` is used, which writes no file."""
        detector = load_detector(self.weights, self.detector, self.threads)
        return PictureCutter(detector, self.preprocess, self.part, self.threads, Path())


@dataclass(frozen=True, slots=True)
class WindowFact:
    """One window: where its picture is in the folder, its size, the face's short side and the JPEG quality or 0."""

    name: str
    height: int
    width: int
    short_side: float
    jpeg_quality: int


class WindowFiles(Sequence[Picture]):
    """[H, W, 3] uint8 pictures of any sizes; each is read from its file when it is indexed.

    Args of the constructor: the files, and [N, 4] rows of file, first byte, height and width.
    """

    def __init__(self, files: Sequence[Path], places_N4: NDArray[np.int64]) -> None:
        self._files, self._places_N4 = tuple(files), places_N4

    def __len__(self) -> int:
        return len(self._places_N4)

    @overload
    def __getitem__(self, key: int) -> Picture: ...

    @overload
    def __getitem__(self, key: slice) -> "WindowFiles": ...

    def __getitem__(self, key: int | slice) -> "Picture | WindowFiles":
        """Return a picture, or the pictures of a slice, still on disk."""
        if isinstance(key, slice):
            return WindowFiles(self._files, self._places_N4[key])
        file, start, height, width = map(int, self._places_N4[key])
        pixels = np.fromfile(self._files[file], np.uint8, count=height * width * 3, offset=start)
        return pixels.reshape(height, width, 3)

    def select(self, rows: NDArray[np.generic]) -> "WindowFiles":
        """Return the pictures of `rows` (indices or a mask), still on disk."""
        return WindowFiles(self._files, self._places_N4[rows])


@dataclass(frozen=True, slots=True, eq=False)
class Windows:
    """The windows of one folder.

    Attributes:
        pictures: N windows, on disk until they are indexed.
        names: [N] path of the picture inside the folder.
        sources: [N] first folder of that path; the folder's own name for pictures directly in it.
        short_sides: [N] of the visible parts of the face boxes in pixels; of whole pictures, their own.
        jpeg_qualities: [N], 1..100; 0 if the picture is no JPEG.
        examined: number of pictures.
        dropped: number of pictures left out, by reason.
    """

    pictures: WindowFiles
    names: NDArray[np.str_]
    sources: NDArray[np.str_]
    short_sides: NDArray[np.float64]
    jpeg_qualities: NDArray[np.int16]
    examined: int
    dropped: dict[str, int]

    def __len__(self) -> int:
        return len(self.pictures)

    def select(self, rows: NDArray[np.generic]) -> Self:
        """Return the windows of `rows` (indices or a mask); `examined` and `dropped` remain those of the folder."""
        return replace(
            self,
            pictures=self.pictures.select(rows),
            names=self.names[rows],
            sources=self.sources[rows],
            short_sides=self.short_sides[rows],
            jpeg_qualities=self.jpeg_qualities[rows],
        )


def cut_windows(folder: Path, rule: CutRule, cache: Path, progress: Progress, most: int = MAX_PICTURES) -> Windows:
    """Return one window for each picture below `folder` that has a face which the default policy scores.

    Args:
        folder: with one folder for each source, or with pictures directly in it.
        rule: how faces are found and cut.
        cache: folder of the files; several calls for other pictures or with other rules may share it.
        progress: receives the total and the number of pictures.
        most: number of pictures; of more, a random choice that is always the same.

    Raises:
        FileNotFoundError: `folder` has no picture, or none with a face.
        OSError: the disk is full.
    """
    paths = draw_pictures(folder, most)
    files = cache / _name_cache(folder, paths, rule)
    chunks = [paths[start : start + PICTURES_PER_CHUNK] for start in range(0, len(paths), PICTURES_PER_CHUNK)]
    records = {files / f"{number:06}.json": chunk for number, chunk in enumerate(chunks)}
    with hold_folder(files, wait=True):  # two trainings of one run may begin with the same pictures
        missing = {record: chunk for record, chunk in records.items() if not record.exists()}
        progress.begin(len(paths), len(paths) - sum(map(len, missing.values())))
        if missing:
            cutter = rule.open_cutter()
            for record, chunk in missing.items():
                _write_chunk(folder, chunk, record, cutter, progress)
    windows = _read_chunks(list(records), folder, len(paths))
    if not len(windows):
        message = f"no {rule.part} was found in the {len(paths)} pictures of {folder}: {windows.dropped}"
        raise FileNotFoundError(message)
    return windows


def cut_for_run(folder: Path, rule: CutRule, run: Path, console: Console, most: int = MAX_PICTURES) -> Windows:
    """Return the windows of a folder, kept in its run's `windows`, and show progress; errors as of `cut_windows`."""
    with Progress(f"cutting faces of {folder}", None, "pictures", console, summary=True) as progress:
        return cut_windows(folder, rule, run / WINDOWS, progress, most)


def read_window(encoded: EncodedFace) -> Picture:
    """Return the upright pixels [H, W, 3] of a window.

    Raises:
        Unscorable: they cannot be decoded, or some of them are missing or wrong.
    """
    data, info, window = encoded.data, encoded.info, encoded.window
    rows = slice(window.top, window.top + window.height)
    columns = slice(window.left, window.left + window.width)
    stored, warning = decode_reduced(strip_metadata(data, info.media_type), info, 1.0)
    if warning:
        damage = measure_damage(data, info, stored, warning, lambda file: decode_reduced(file, info, 1.0))
        mask = turn_upright(damage.mask[..., np.newaxis].view(np.uint8), info.orientation)
        if mask[rows, columns].any():
            message = f"pixels of the face are missing or wrong; the decoder reports: {warning}"
            raise Unscorable(info.damage_reason, message)
    return np.ascontiguousarray(turn_upright(stored, info.orientation)[rows, columns])


def _name_cache(folder: Path, paths: Sequence[Path], rule: CutRule) -> str:
    """Return a name that differs for other pictures and for another rule."""
    stats = [(path.relative_to(folder).as_posix(), path.stat()) for path in paths]
    inputs = {
        "layout": LAYOUT,
        "detector": asdict(rule.detector),
        "margin": rule.preprocess.margin,
        "part": rule.part,
        "folder": folder.resolve().name,
        "pictures": [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats],
    }
    return hashlib.sha256(json.dumps(inputs).encode()).hexdigest()[:16]


def _write_chunk(folder: Path, paths: Sequence[Path], record: Path, cutter: PictureCutter, progress: Progress) -> None:
    dropped: Counter[str] = Counter()
    facts: list[WindowFact] = []

    def write(file: IO[bytes]) -> None:
        for path in paths:
            try:
                part = cutter.locate(path)
                pixels = read_window(part.encoded) if part else None
            except Unscorable as failure:
                dropped[str(failure.reason)] += 1
            else:
                if part is None or pixels is None:
                    dropped["no_face"] += 1
                else:
                    file.write(pixels.data)
                    height, width, _ = pixels.shape
                    name = path.relative_to(folder).as_posix()
                    facts.append(WindowFact(name, height, width, part.short_side, part.jpeg_quality))
            progress.advance()

    write_and_rename(record.with_suffix(".partial"), record.with_suffix(PIXELS), write)
    content = {"windows": [asdict(fact) for fact in facts], "dropped": dict(dropped)}
    replace_file(record, json.dumps(content).encode())


def _read_chunks(records: Sequence[Path], folder: Path, examined: int) -> Windows:
    dropped: Counter[str] = Counter()
    facts: list[WindowFact] = []
    places: list[tuple[int, int, int, int]] = []
    for number, record in enumerate(records):
        content = json.loads(record.read_text(encoding="utf-8"))
        dropped.update(content["dropped"])
        start = 0
        for fact in (WindowFact(**fields) for fields in content["windows"]):
            facts.append(fact)
            places.append((number, start, fact.height, fact.width))
            start += fact.height * fact.width * 3
    return Windows(
        WindowFiles([record.with_suffix(PIXELS) for record in records], np.array(places, np.int64).reshape(-1, 4)),
        np.array([fact.name for fact in facts], np.str_),
        np.array(
            [fact.name.partition("/")[0] if "/" in fact.name else folder.resolve().name for fact in facts], np.str_
        ),
        np.array([fact.short_side for fact in facts], np.float64),
        np.array([fact.jpeg_quality for fact in facts], np.int16),
        examined,
        dict(dropped),
    )
