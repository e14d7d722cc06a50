"""Score windows with a detector, and keep the scores on disk, one file for each detector, condition and set.

The name of a file contains a digest of the detector, of the condition and of the windows: a changed one is scored
again, and an interrupted comparison continues with the next file.
"""

import ctypes
import gc
import hashlib
import inspect
import re
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from scorer.files import write_and_rename
from training.evaluation.compare.conditions import WindowCondition
from training.evaluation.detectors.base import PICTURES_PER_BATCH, Detector, NetworkDetector
from training.evaluation.detectors.windows import Windows

Scores = NDArray[np.float32]
_PEAK, _PEAK_RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class NotFinite(ValueError):
    """A detector gave a face no finite score."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What the scores of faces cost.

    Attributes:
        seconds: in the detector, with its own preprocessing.
        faces: that were scored.
        peak_bytes: of this process while the detector worked, less those before it was opened; 0 if unknown.
        device_bytes: peak of the GPU's memory; 0 without one.
    """

    seconds: float = 0.0
    faces: int = 0
    peak_bytes: int = 0
    device_bytes: int = 0

    def join(self, other: "Cost") -> "Cost":
        """Return the cost of both."""
        return Cost(
            self.seconds + other.seconds,
            self.faces + other.faces,
            max(self.peak_bytes, other.peak_bytes),
            max(self.device_bytes, other.device_bytes),
        )


class MemoryMeter:
    """Measures the memory that a detector adds to this process; create it before the detector is opened."""

    def __init__(self) -> None:
        gc.collect()
        library = ctypes.CDLL(None)
        if hasattr(library, "malloc_trim"):
            library.malloc_trim(0)  # memory that the previous detector freed would count as this one's
        self._before = self._reset()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def read(self) -> tuple[int, int]:
        """Return the peaks since the creation, in bytes of this process and of the GPU; 0 where one is unknown."""
        device = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
        return (max(0, _read_status("VmHWM") - self._before) if self._before else 0), device

    @staticmethod
    def _reset() -> int:
        """Return the memory now in bytes and let the kernel measure its peak anew; 0 where that is not possible."""
        try:
            _PEAK_RESET.write_text("5", encoding="ascii")
        except OSError:
            return 0
        return _read_status("VmRSS")


def _read_status(field: str) -> int:
    found = re.search(rf"^{field}:\s+(\d+) kB", _PEAK.read_text(encoding="ascii"), re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


def digest_detector(detector: Detector, inputs: bytes) -> bytes:
    """Return a digest of a detector: of the code of its module, of its weights, and of `inputs`."""
    digest = hashlib.sha256(f"{detector.name} {detector.higher_is_generated}".encode() + inputs)
    for module in sorted(_list_modules(detector)):
        digest.update(inspect.getsource(sys.modules[module]).encode())
    if isinstance(detector, NetworkDetector):
        for name, values in sorted(detector.network.state_dict().items()):
            digest.update(f"{name} {values.dtype} {tuple(values.shape)}".encode())
            digest.update(values.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.digest()


def _list_modules(detector: Detector) -> set[str]:
    """Return the names of the modules that define a detector, without those of kept backbones."""
    if not isinstance(detector, NetworkDetector):
        return {type(detector).__module__}
    layers = {type(layer).__module__ for layer in detector.network.modules()}
    own = {name for name in layers if name.startswith("training.")}
    return own | {type(detector.network).__module__, detector.design.preprocess.__module__}


def digest_windows(windows: Windows) -> bytes:
    """Return a digest of the windows' pixels, and of the sizes of their faces."""
    digest = hashlib.sha256(np.ascontiguousarray(windows.short_sides, "<f8").data)
    for picture in windows.pictures:
        digest.update(f"{picture.shape}".encode())
        digest.update(np.ascontiguousarray(picture).data)
    return digest.digest()


@dataclass(frozen=True, slots=True, eq=False)
class ScoredSet:
    """The scores [N] of a set; NaN for a face that became too small to be scored."""

    scores: Scores
    cost: Cost


@dataclass(frozen=True, slots=True)
class ScoreCache:
    """The files of scores below `folder`."""

    folder: Path

    def find(self, detector: str, condition: str, name: str, parts: tuple[bytes, ...]) -> Path:
        """Return the path of a set's scores; `parts` are the digests of what they were computed from."""
        key = hashlib.sha256(b"".join(parts)).hexdigest()[:16]
        names = (re.sub(r"[^\w.-]+", "_", text) for text in (detector, condition, f"{name}-{key}.npz"))
        return self.folder.joinpath(*names)

    @staticmethod
    def read(path: Path) -> ScoredSet | None:
        """Return the scores in a file, or None if there is none."""
        if not path.is_file():
            return None
        with np.load(path, allow_pickle=False) as arrays:
            seconds, faces, peak, device = arrays["cost"]
            return ScoredSet(arrays["scores"], Cost(float(seconds), int(faces), int(peak), int(device)))

    @staticmethod
    def write(path: Path, scored: ScoredSet) -> None:
        """Write a file as a whole or not at all."""
        cost = scored.cost
        stored = np.array([cost.seconds, cost.faces, cost.peak_bytes, cost.device_bytes], np.float64)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_and_rename(
            path.with_suffix(".partial"), path, lambda file: np.savez(file, scores=scored.scores, cost=stored)
        )


def score_windows(
    detector: Detector,
    condition: WindowCondition,
    windows: Windows,
    meter: MemoryMeter,
    advance: Callable[[int], None],
) -> ScoredSet:
    """Return the scores of processed windows and their cost.

    Args:
        detector: gets at most `PICTURES_PER_BATCH` pictures at once.
        condition: how each window is processed.
        windows: of the faces.
        meter: measures the memory.
        advance: called with the number of faces of each batch.

    Raises:
        NotFinite: a face has no finite score.
    """
    scores = np.full(len(windows), np.nan, np.float32)
    scored, seconds = condition.find_scored(windows), 0.0
    for start in range(0, len(windows), PICTURES_PER_BATCH):
        rows = [row for row in range(start, min(start + PICTURES_PER_BATCH, len(windows))) if scored[row]]
        pictures = [condition.process(windows.pictures[row], float(windows.short_sides[row]), row) for row in rows]
        started = time.perf_counter()
        scores[rows] = detector.score_batch(pictures) if rows else ()
        seconds += time.perf_counter() - started
        if not np.isfinite(scores[rows]).all():
            row = rows[int(np.argmin(np.isfinite(scores[rows])))]
            message = f"{detector.name} gave the face of {windows.names[row]} no finite score ({condition.name})"
            raise NotFinite(message)
        advance(min(PICTURES_PER_BATCH, len(windows) - start))
    return ScoredSet(scores, Cost(seconds, int(scored.sum()), *meter.read()))


def score_detector(  # noqa: PLR0913, PLR0917 - what a file of scores depends on, and where to count
    detector: Detector,
    own: bytes,
    conditions: Mapping[str, WindowCondition],
    sets: Mapping[str, tuple[Windows, bytes]],
    cache: ScoreCache,
    meter: MemoryMeter,
    advance: Callable[[int], None],
) -> dict[str, dict[str, ScoredSet]]:
    """Return the scores of all sets by condition and set, from the cache where they are there.

    Args:
        detector: an opened one.
        own: its digest.
        conditions: by name.
        sets: windows and their digest by name; "" is photographs.
        cache: the files.
        meter: created before the detector was opened.
        advance: called with numbers of faces.

    Raises:
        NotFinite: a face has no finite score.
    """
    results: dict[str, dict[str, ScoredSet]] = {}
    for condition in conditions.values():
        results[condition.name] = {}
        for name, (windows, pixels) in sets.items():
            path = cache.find(detector.name, condition.name, name or "photographs", (own, condition.digest(), pixels))
            found = cache.read(path)
            if found is None:
                found = score_windows(detector, condition, windows, meter, advance)
                cache.write(path, found)
            else:
                advance(len(windows))
            results[condition.name][name] = found
    return results
