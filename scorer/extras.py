"""The extras of an installation: their names, their purposes, and the command that installs them.

The distributions of an extra are read from the metadata of the installed package; pyproject.toml is their source.
"""

import importlib.metadata
import re
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path

from scorer.errors import MissingExtra
from scorer.version import PACKAGE

_ROOT = Path(__file__).resolve().parent.parent

# Where several extras include a package, the first of this order is recommended.
EXTRAS = {
    "cpu": "scoring on a CPU, and decoding everywhere: score, scan, serve, bundle verify",
    "scan": "archives: scan, report, compare, bundle fetch; explain",
    "calibrate": "fitting a bundle to a scan: calibrate",
    "stream": "serving a stream: serve, dlq",
    "api": "answering HTTP requests: api",
    "video": "videos in score, scan and serve",
    "provenance": "what images state about their origin: provenance.enabled",
    "sign": "a bundle's signature: --key",
    "s3": "images and bundles at s3://, AWS_MSK_IAM",
    "otel": "spans of serve",
    "archive": "scan --engine ray",
    "gpu": "scoring on a GPU",
    "train": "unlensed-train",
    "tensorrt": "unlensed-train export --target tensorrt on a GPU, with the plan",
    "compare": "unlensed-train evaluate --features",
    "demo": "the portrait of make demo",
    "rtx": "tests that build a GPU bundle's graph",
    "test": "the tests",
    "bench": "the benchmarks",
    "fuzz": "make fuzz",
}

# The extras of each command, so that one line installs all of them; others follow from the module that is missing.
NEEDED = {
    "score": ("cpu",),
    "scan": ("cpu", "scan"),
    "explain": ("cpu", "scan"),
    "report": ("scan",),
    "compare": ("scan",),
    "review": ("cpu", "scan", "api"),
    "erase": ("cpu", "scan"),
    "calibrate": ("calibrate",),
    "serve": ("cpu", "stream"),
    "api": ("cpu", "api"),
    "dlq": ("stream",),
}

# Modules whose name differs from that of their distribution.
_DISTRIBUTIONS = {
    "c2pa": "c2pa-python",
    "crc32c": "kafka-python",
    "cupy": "cupy-cuda13x",
    "cv2": "opencv-python-headless",
    "grpc": "tritonclient",
    "kafka": "kafka-python",
    "nvidia": "nvidia-dali-cuda130",
    "onnxruntime": "onnxruntime-gpu",
    "open_clip": "open-clip-torch",
    "multipart": "python-multipart",
    "opentelemetry": "opentelemetry-sdk",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "tensorrt_rtx": "tensorrt-rtx-cu13-bindings",
    "yaml": "pyyaml",
}
_WITHOUT_DEPENDENCIES = frozenset({"face-alignment", "imgaug"})  # pyproject.toml explains why
_REQUIREMENT = re.compile(r"([\w.-]+)(?:\[([\w,. -]+)\])?[^;]*;.*\bextra\s*==\s*['\"]([\w.-]+)['\"]")


@cache
def read_extras() -> Mapping[str, frozenset[str]]:
    """Return the distributions of each extra, including those of the extras that it includes."""
    own: dict[str, set[str]] = {extra: set() for extra in EXTRAS}
    included: dict[str, set[str]] = {extra: set() for extra in EXTRAS}
    for requirement in importlib.metadata.requires(PACKAGE) or ():
        if match := _REQUIREMENT.match(requirement):
            name, parts, extra = match.groups()
            if _normalise(name) == PACKAGE:
                included.setdefault(extra, set()).update(part.strip() for part in parts.split(","))
            else:
                own.setdefault(extra, set()).add(_normalise(name))

    def collect(extra: str) -> set[str]:
        return own.get(extra, set()).union(*(collect(part) for part in included.get(extra, ())))

    return {extra: frozenset(collect(extra)) for extra in own}


def find_missing(extra: str) -> list[str]:
    """Return the distributions of an extra that are not installed, sorted."""
    return sorted(name for name in read_extras().get(extra, ()) if not _is_installed(name))


def describe_missing(command: str, module: str, needed: Sequence[str]) -> MissingExtra | None:
    """Return the error for a `command` that cannot import `module`; None if no extra includes it, which is a defect.

    Args:
        command: the name of the command.
        module: what could not be imported, a module or a submodule.
        needed: the extras that the command always needs.
    """
    top = module.partition(".")[0]
    distribution = _normalise(_DISTRIBUTIONS.get(top, top))
    if distribution in _WITHOUT_DEPENDENCIES:
        return MissingExtra(command, distribution, _group_line("train-no-deps"))
    extra = _find_extra(distribution, needed)
    return MissingExtra(command, distribution, pip_line(dict.fromkeys([*needed, extra]))) if extra else None


def install_line(distribution: str) -> str:
    """Return the command that installs a distribution: with its extra if there is one, else alone."""
    extra = _find_extra(_normalise(distribution))
    return pip_line([extra]) if extra else f"pip install {distribution}"


def pip_line(extras: Iterable[str]) -> str:
    """Return the command that installs `extras` into this environment, from the checkout if this code runs from one."""
    python = shlex.quote(sys.executable)
    names = ",".join(extras)
    if (_ROOT / "pyproject.toml").is_file():
        constraints, target = shlex.quote(str(_ROOT / "constraints.txt")), shlex.quote(f"{_ROOT}[{names}]")
        return f"{python} -m pip install --constraint {constraints} --editable {target}"
    return f"{python} -m pip install {shlex.quote(f'{PACKAGE}[{names}]')}"


def _find_extra(distribution: str, preferred: Sequence[str] = ()) -> str | None:
    """Return the first extra that includes a distribution; preferred extras come first."""
    extras = read_extras()
    return next((extra for extra in (*preferred, *EXTRAS) if distribution in extras.get(extra, ())), None)


def _group_line(group: str) -> str:
    project = shlex.quote(f"{_ROOT / 'pyproject.toml'}:{group}")
    return f"{shlex.quote(sys.executable)} -m pip install --no-deps --group {project}"


def _normalise(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _is_installed(distribution: str) -> bool:
    try:
        importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
