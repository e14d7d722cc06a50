"""One part of the GPU report, in its own process: `part.py NAME OUT.json DEVICE SCRATCH`, started by run.py.

A part is a module of the folder `parts` (or of the folder in PARTS_FOLDER) with a function `measure(part)`. It states
figures one by one, and each is on disk at once: a part that is killed later has said what it knew.
"""

import importlib.util
import json
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Literal, TypeVar

from machine import read_energy_j

ROOT = Path(__file__).resolve().parent.parent.parent
OURS = {"ingest", "scorer", "training", "deploy", "tests", *(path.stem for path in Path(__file__).parent.glob("*.py"))}
OURS |= {path.stem for path in (ROOT / "tests" / "benchmarks").glob("*.py")}
# Packages on which figures depend; the report contains the versions of those that a part imported.
TOLD = ("numpy", "scipy", "torch", "torchvision", "cupy", "nvidia.dali", "tensorrt", "tensorrt_rtx", "torch_tensorrt")
TOLD += ("onnx", "onnxruntime", "openvino", "cv2", "sklearn", "PIL", "tritonclient")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Figure:
    """A measured number; `asked` states its bound in words, if it has one."""

    name: str
    value: float
    unit: str
    asked: str | None = None
    met: bool | None = None
    ceiling: float | None = None


@dataclass(frozen=True, slots=True)
class Asked:
    """A figure that a full run has to measure, by part, name and unit, and its bound, if it has one."""

    part: str
    name: str
    unit: str
    at_least: float | None = None
    at_most: float | None = None

    @property
    def bound(self) -> str | None:
        """The bound in words."""
        if self.at_least is not None:
            return f">= {self.at_least:g}"
        return None if self.at_most is None else f"<= {self.at_most:g}"


# The first table of the report has a row for each, measured or not.
ASKED = (
    Asked("engine_parity", "FP16: median difference", "nats", at_most=0.2),
    Asked("engine_parity", "FP16: 99th percentile", "nats"),
    Asked("engine_parity", "FP16: other decisions at 5 %", "% of faces", at_most=0.5),
    Asked("end_to_end", "stream: share of the slowest stage alone", "%", at_least=70),
    Asked("end_to_end", "stream: share of the mixture", "%", at_most=3),
    Asked("end_to_end", "archive: share of the slowest stage alone", "%", at_least=85),
    Asked("end_to_end", "archive: share of the mixture", "%", at_most=3),
    Asked("end_to_end", "archive: energy of 1,000 images", "J"),
    Asked("jobs", "jobs: unlensed score, files to results", "images/s"),
    Asked("jobs", "unlensed score: energy of 1,000 images", "J"),
    Asked("jobs", "jobs: unlensed scan, files to shards", "images/s"),
    Asked("jobs", "unlensed scan: share of the slowest stage alone", "%", at_least=85),
    Asked("jobs", "jobs: unlensed serve, records to results", "images/s"),
    Asked("jobs", "unlensed serve: share of the slowest stage alone", "%", at_least=70),
    Asked("damage", "refused by the CPU, scored after the check", "files", at_most=0),
    Asked("video", "h264: frames of another time", "frames", at_most=0),
    Asked("video", "h264: mean difference of frames", "levels", at_most=2),
)


@dataclass(slots=True)
class Part:
    """The inputs of a part, and where it reports its figures.

    Attributes:
        device: "cuda", or "cpu" for a rehearsal: small sizes, and no bound is judged.
        out: where the figures go.
        scratch: a folder for files.
    """

    device: Literal["cpu", "cuda"]
    out: Path
    scratch: Path
    figures: list[Figure] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    troubles: list[str] = field(default_factory=list)

    def choose(self, full: T, small: T) -> T:
        """Return the size for a GPU, or the one for a rehearsal on a CPU."""
        return full if self.device == "cuda" else small

    def record(
        self,
        name: str,
        value: float,
        unit: str,
        *,
        at_least: float | None = None,
        at_most: float | None = None,
        ceiling: float | None = None,
    ) -> None:
        """Report a figure, and whether it meets its bound, if it has one here or in `ASKED`. A NaN meets no bound.

        `ceiling` is its limit, measured in the same run in the same unit.
        """
        asked = Asked(self.out.stem, name, unit, at_least, at_most)
        asked = next((each for each in ASKED if (each.part, each.name) == (asked.part, name)), asked)
        met = None
        if asked.at_least is not None:
            met = bool(value >= asked.at_least)
        elif asked.at_most is not None:
            met = bool(value <= asked.at_most)
        limit = None if ceiling is None else float(ceiling)
        self.figures.append(Figure(name, float(value), unit, asked.bound, met, limit))
        self.write()

    @contextmanager
    def measure_energy(self, what: str, images: int) -> Iterator[None]:
        """Report the energy that the GPU takes for `images` in the block."""
        before = read_energy_j()
        yield
        after = read_energy_j()
        if before is None or after is None:
            self.note(f"{what}: energy of 1,000 images: NVML (libnvidia-ml) is not there, or counts none")
        else:
            self.record(f"{what}: energy of 1,000 images", (after - before) / images * 1000, "J")

    def note(self, text: str) -> None:
        """Report a remark."""
        self.notes.append(text)
        self.write()

    @contextmanager
    def attempt(self, what: str) -> Iterator[None]:
        """Catch an error of the block: the part continues, and the report states what failed and why."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - the other figures are still wanted
            traceback.print_exc()
            missing = missing_package(error)
            reason = f"missing package {missing}" if missing else f"{type(error).__name__}: {error}"
            self.troubles.append(f"{what}: {reason[:400]}")
            self.write()

    def write(self) -> None:
        """Write all figures so far to disk."""
        fields = {"figures": [asdict(figure) for figure in self.figures], "notes": self.notes}
        fields |= {"troubles": self.troubles, "versions": read_versions()}
        draft = self.out.with_suffix(".draft")
        draft.write_text(json.dumps(fields))
        draft.replace(self.out)


def read_versions() -> dict[str, str]:
    """Return the versions of the listed packages that are imported."""
    modules = {name: sys.modules[name] for name in TOLD if name in sys.modules}
    return {name: str(getattr(module, "__version__", "unknown")) for name, module in modules.items()}


def missing_package(error: BaseException | None) -> str | None:
    """Return the missing package or library that `error` is about; None for other errors."""
    while error is not None:
        if isinstance(error, ImportError) and (error.name or "").partition(".")[0] not in OURS:
            return error.name if isinstance(error, ModuleNotFoundError) and error.name else str(error)
        error = error.__cause__
    return None


def load_part(name: str) -> ModuleType:
    """Import the part `name`."""
    folder = Path(os.environ.get("PARTS_FOLDER", Path(__file__).parent / "parts"))
    spec = importlib.util.spec_from_file_location(f"part_{name}", folder / f"{name}.py")
    if spec is None or spec.loader is None:
        message = f"{folder} has no part {name}"
        raise FileNotFoundError(message)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main() -> int:
    """Run one part; exit code 3 stands for a missing package."""
    name, out, device, scratch = sys.argv[1:]
    part = Part("cuda" if device == "cuda" else "cpu", Path(out), Path(scratch))
    part.write()
    try:
        load_part(name).measure(part)
    except Exception as error:  # noqa: BLE001 - reported by the exit code
        traceback.print_exc()
        missing = missing_package(error)
        if missing is None:
            return 1
        part.troubles.append(missing)
        part.write()
        return 3
    return 0


if __name__ == "__main__":
    # Threads of a package at the interpreter's exit must not make a finished part look crashed.
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
