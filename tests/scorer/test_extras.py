"""What is missing is named with the line that installs it."""

import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from scorer.commands.doctor import examine
from scorer.extras import EXTRAS, NEEDED, describe_missing, find_missing, pip_line, read_extras
from training.cli import TrainingGroup

# Takes modules away, as an environment without them does, and runs the command.
WITHOUT = """
import sys

missing, command, sys.argv = sys.argv[1].split(","), sys.argv[2], sys.argv[2:]

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in missing:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing())
if command == "unlensed":
    from scorer.commands.main import main
else:
    from training.cli import main
main()
"""


@pytest.fixture(scope="module")
def project(root: Path) -> dict[str, Any]:
    """The project's table in pyproject.toml."""
    project: dict[str, Any] = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["project"]
    return project


def run_without(modules: str, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a command where `modules`, with commas between, are not installed."""
    return subprocess.run(
        [sys.executable, "-c", WITHOUT, modules, *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_doctor_lists_every_extra(project: dict[str, Any], root: Path) -> None:
    """Each extra of pyproject.toml is listed as installed or not, with its purpose and, if not, the pip command."""
    findings = [finding for finding in examine(root / "model_repository", "cpu") if finding.part == "extra"]
    assert [finding.found.split()[0] for finding in findings] == list(EXTRAS)
    assert sorted(EXTRAS) == sorted(project["optional-dependencies"])
    for finding in findings:
        assert finding.usable or "-m pip install" in finding.why


def test_an_extra_holds_what_pyproject_lists(project: dict[str, Any]) -> None:
    """The metadata that is read are pyproject's lists, with the extras inside of extras."""
    listed = {
        extra: {re.split(r"[\[<>=;]", requirement, maxsplit=1)[0] for requirement in requirements}
        for extra, requirements in project["optional-dependencies"].items()
    }
    for extra, names in listed.items():
        assert names - {"unlensed"} <= read_extras()[extra]
    assert listed["scan"] <= read_extras()["archive"] <= read_extras()["bench"]


@pytest.mark.parametrize("extra", ["cpu", "scan", "stream", "sign", "s3", "otel", "gpu", "train", "compare", "api"])
def test_every_module_of_an_extra_is_known(extra: str) -> None:
    """For each module of an extra's packages, the extra that includes it would be named."""
    missing = set(find_missing(extra))
    modules: dict[str, list[str]] = {}
    for module, distributions in importlib.metadata.packages_distributions().items():
        for name in distributions:
            modules.setdefault(re.sub(r"[-_.]+", "-", name).lower(), []).append(module)
    for distribution in read_extras()[extra] - missing:
        named = [describe_missing("score", module, (extra,)) for module in modules[distribution]]
        assert any(found is not None and f"[{extra}]" in str(found) for found in named), distribution


@pytest.mark.parametrize("module", ["imgaug", "face_alignment"])
def test_packages_without_their_dependencies_have_a_line_of_their_own(root: Path, module: str) -> None:
    """What pyproject.toml keeps in a group is installed from it."""
    groups = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["dependency-groups"]
    found = str(describe_missing("prepare", module, ("train",)))
    (distribution,) = re.findall(r"the package (\S+),", found)
    assert distribution in {name.partition("==")[0] for name in groups["train-no-deps"]}
    assert "--no-deps --group" in found
    assert found.endswith("pyproject.toml:train-no-deps")


def test_a_module_of_no_extra_is_a_defect() -> None:
    """A broken installation is not taken for one without an extra."""
    assert describe_missing("score", "_lzma", NEEDED["score"]) is None
    assert describe_missing("score", "scorer.gone", NEEDED["score"]) is None


def test_the_line_names_this_python_and_this_checkout(root: Path) -> None:
    """Nothing is looked for under this name in a registry, where the package could be anybody's."""
    line = pip_line(["cpu", "scan"])
    assert line.startswith(sys.executable)
    assert f"--editable '{root}[cpu,scan]'" in line


WITHOUT_PACKAGES = [
    ("unlensed score {image}", "openvino,nvidia,threadpoolctl", "cpu"),
    ("unlensed scan . --out run", "pyarrow,duckdb", "cpu,scan"),
    ("unlensed report .", "fsspec", "scan"),
    ("unlensed compare . .", "duckdb", "scan"),
    ("unlensed serve", "kafka", "cpu,stream"),
    ("unlensed api", "uvicorn", "cpu,api"),
    ("unlensed serve --replay {image}", "psutil,threadpoolctl", "cpu,stream"),
    ("unlensed dlq list", "kafka", "stream"),
    ("unlensed dlq replay", "kafka", "stream"),
    ("unlensed bundle verify {bundle}", "nvidia", "cpu"),
    ("unlensed bundle verify {bundle} --triton localhost:1", "grpc", "stream"),
    ("unlensed bundle verify {bundle} --files-only --key {image}", "cryptography", "sign"),
    ("unlensed bundle fetch . copy", "fsspec", "scan"),
    ("unlensed bundle fetch s3://bucket/a copy", "s3fs", "s3"),
    ("unlensed-train train run", "torch", "train"),
    ("unlensed-train fit run", "nvidia", "train"),
    ("unlensed-train prepare run --photos . --landmarks .", "cv2,sklearn,nvidia", "train"),
    ("unlensed-train evaluate run --generated . --features clip=x", "open_clip", "train,compare"),
]


@pytest.mark.parametrize(
    ("command", "modules", "extras"),
    # Each case is a process of a second or two: one in four is part of the fast suite.
    [pytest.param(*case, marks=pytest.mark.long if number % 4 else ()) for number, case in enumerate(WITHOUT_PACKAGES)],
)
def test_a_command_without_its_packages_says_what_installs_them(
    command: str, modules: str, extras: str, root: Path, tmp_path: Path
) -> None:
    """One sentence with the pip line, and the exit code of a bad configuration."""
    image, bundle = root / "tests/e2e/scored_astronaut.webp", root / "model_repository"
    run = run_without(modules, *command.format(image=image, bundle=bundle).split(), cwd=tmp_path)
    assert run.returncode == 78, run.stderr
    (line,) = run.stderr.splitlines()
    assert f"{root}[{extras}]'" in line


def test_training_needs_its_extra() -> None:
    """Every command of `unlensed-train` needs all of it."""
    assert TrainingGroup.needed == ("train",)
