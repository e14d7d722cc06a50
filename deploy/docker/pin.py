"""Write `requirements/*.txt`: the packages of each image, with the SHA-256 of their wheels.

    python deploy/docker/pin.py [IMAGE...]

uv must be on the PATH: it resolves versions for each Python, and pip finds the wheels. Nothing is installed, and no
address of a registry is recorded. `constraints.txt` decides the versions that it contains, so that images run the
tested ones. The hashes are committed and not computed when an image is built, because a hash of what was just
downloaded proves nothing. Only wheels for Linux on x86-64 and the two supported versions of Python are listed. Run it
again when pyproject.toml or constraints.txt changes; `tests/deploy/test_requirements.py` fails until then.
"""

import json
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Sequence
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
PYTHONS = ("3.11", "3.12")
GLIBC_MINOR = 36  # Debian 12; NVIDIA's containers have a newer one
SERVICE = ("api", "cpu", "otel", "s3", "scan", "sign", "stream")
# The reason is in ingest/openvino_core.py, which hides the package where it is installed.
LEFT_OUT = frozenset({"openvino-telemetry"})
# Image -> extras, dependency groups, and packages that are left out.
IMAGES: dict[str, tuple[Sequence[str], Sequence[str], frozenset[str]]] = {
    "scorer-cpu": (SERVICE, (), LEFT_OUT),
    # NVIDIA's container has TensorRT, which is faster than ONNX Runtime.
    "scorer-gpu": ((*SERVICE, "gpu"), (), LEFT_OUT | {"onnxruntime-gpu"}),
    "training": (("train", "gpu"), ("train-no-deps",), LEFT_OUT),
}
EXTENDED = {"scorer-gpu": "scorer-cpu"}  # image -> the image whose list its own includes
TRITON_CPU = "triton-cpu"  # the list of the local server, which is complete
BUILD = "build"  # the build backend of the wheel


def find_requirements(image: str) -> tuple[list[str], list[str]]:
    """Return the requirements of an image: those to resolve, and those that are added unchanged."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    if image == BUILD:
        return project["build-system"]["requires"], []
    if image == TRITON_CPU:
        lines = (
            line.partition("#")[0].strip()
            for line in (ROOT / "deploy/local/triton.txt").read_text(encoding="utf-8").splitlines()
        )
        return [], [line for line in lines if line and canonicalize_name(Requirement(line).name) not in LEFT_OUT]
    extras, groups, left_out = IMAGES[image]
    needs = list(project["project"]["dependencies"])
    for extra in extras:
        needs += _list_extra(project, extra)
    alone = [need for group in groups for need in project["dependency-groups"][group]]
    return [need for need in needs if canonicalize_name(Requirement(need).name) not in left_out], alone


def _list_extra(project: dict[str, dict[str, dict[str, list[str]]]], extra: str) -> list[str]:
    needs = []
    for need in project["project"]["optional-dependencies"][extra]:
        parsed = Requirement(need)
        if parsed.name == "unlensed":
            needs += [inner for name in sorted(parsed.extras) for inner in _list_extra(project, name)]
        else:
            needs.append(need)
    return needs


def resolve(python: str, needs: Sequence[str]) -> list[str]:
    """Return the versions that uv resolves for one version of Python, as `name==version`."""
    with tempfile.TemporaryDirectory() as scratch:
        listing = Path(scratch) / "needs.in"
        listing.write_text("\n".join(needs), encoding="utf-8")
        command = ["uv", "pip", "compile", "--quiet", "--no-header", "--no-annotate", "--only-binary=:all:"]
        command += [f"--python-version={python}", "--python-platform=x86_64-manylinux_2_28"]
        command += [f"--constraint={ROOT / 'constraints.txt'}", str(listing)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603 - uv, with this project's own requirements
    return done.stdout.splitlines()


def find_wheels(python: str, pins: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Return name -> version and SHA-256 of the wheel that pip would install for one version of Python."""
    platforms = [f"manylinux_2_{minor}_x86_64" for minor in range(GLIBC_MINOR, 4, -1)]
    platforms += ["manylinux2014_x86_64", "manylinux2010_x86_64", "manylinux1_x86_64", "linux_x86_64"]
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch) / "report.json"
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed", "--no-deps"]
        command += ["--only-binary=:all:", f"--target={scratch}", f"--report={report}", f"--python-version={python}"]
        command += [f"--platform={platform}" for platform in platforms]
        subprocess.run([*command, *pins], check=True)  # noqa: S603 - pip, with this project's own requirements
        items = json.loads(report.read_text(encoding="utf-8"))["install"]
    return {
        canonicalize_name(item["metadata"]["name"]): (
            item["metadata"]["version"],
            item["download_info"]["archive_info"]["hashes"]["sha256"],
        )
        for item in items
    }


def render(image: str) -> str:
    """Return the text of an image's file: one package on each line, with a marker if only one Python has it."""
    needs, alone = find_requirements(image)
    found = {python: find_wheels(python, resolve(python, needs) + alone) for python in PYTHONS}
    lines = [f"# Made by deploy/docker/pin.py {image}: Linux on x86-64, Python {' and '.join(PYTHONS)}."]
    pins = {(name, version) for packages in found.values() for name, (version, _) in packages.items()}
    pins = {(name, version) for name, version in pins if name not in LEFT_OUT}
    for name, version in sorted(pins):
        having = [python for python in PYTHONS if found[python].get(name, ("",))[0] == version]
        marker = "" if len(having) == len(PYTHONS) else f' ; python_version == "{having[0]}"'
        digests = sorted({found[python][name][1] for python in having})
        lines.append(f"{name}=={version}{marker} " + " ".join(f"--hash=sha256:{digest}" for digest in digests))
    if image in EXTENDED:
        included = list_pins(EXTENDED[image])
        if missing := sorted(set(included) - set(lines)):
            message = f"{image} does not need or pin otherwise what {EXTENDED[image]} pins: {missing}"
            raise ValueError(message)
        lines[1:] = [f"-r {EXTENDED[image]}.txt", *(line for line in lines[1:] if line not in included)]
    return "\n".join(lines) + "\n"


def list_pins(image: str) -> list[str]:
    """Return the lines of an image's file, and of the one that it includes."""
    text = (ROOT / "deploy/docker/requirements" / f"{image}.txt").read_text(encoding="utf-8")
    included = list_pins(EXTENDED[image]) if image in EXTENDED else []
    return included + [line for line in text.splitlines() if not line.startswith(("#", "-r "))]


def main() -> None:
    """Write the files of the images that are named, or of all."""
    for image in sys.argv[1:] or (*IMAGES, TRITON_CPU, BUILD):
        file = ROOT / "deploy/docker/requirements" / f"{image}.txt"
        file.write_text(render(image), encoding="utf-8")
        print(f"{file.relative_to(ROOT)}: {len(file.read_bytes().splitlines()) - 1} packages")  # noqa: T201 - progress


if __name__ == "__main__":
    main()
