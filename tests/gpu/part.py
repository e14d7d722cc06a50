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
        self, name: str, value: float, unit: str, *, at_least: float | None = None, at_most: float | None = None
    ) -> None:
        """Report a figure, and whether it meets its bound, if it has one. A NaN meets no bound."""
        asked, met = None, None
        if at_least is not None:
            asked, met = f">= {at_least:g}", value >= at_least
        elif at_most is not None:
            asked, met = f"<= {at_most:g}", value <= at_most
        self.figures.append(Figure(name, float(value), unit, asked, bool(met) if met is not None else None))
        self.write()

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
