"""The images' lists of wheels fit pyproject.toml and constraints.txt."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from deploy.docker.pin import BUILD, IMAGES, LEFT_OUT, PYTHONS, TRITON_CPU, find_requirements, list_pins
from tests.deploy.images import DOCKER, ROOT
from tests.deploy.tools import find_tool

LINE = re.compile(
    r"(?P<name>[a-z0-9-]+)==(?P<version>\S+)( ; (?P<marker>\S+ == \S+))?( --hash=sha256:[0-9a-f]{64}){1,2}"
)

ALWAYS = "python_version >= '3'"


def read_versions(image: str, python: str = PYTHONS[-1]) -> dict[str, str]:
    """Return the versions for one Python by name; every line must be a pin with hashes."""
    lines = list_pins(image)
    pins = [LINE.fullmatch(line) for line in lines]
    assert all(pins), [line for line, pin in zip(lines, pins, strict=True) if not pin]
    here = {"python_version": python}
    here_pins = [pin for pin in pins if pin and Marker(pin["marker"] or ALWAYS).evaluate(here)]
    versions = {pin["name"]: pin["version"] for pin in here_pins}
    assert len(versions) == len(here_pins)  # no package is pinned twice
    return versions


@pytest.mark.parametrize("image", [*IMAGES, TRITON_CPU, BUILD])
def test_list_contains_the_requirements_of_the_image(image: str) -> None:
    """Each requirement is pinned to an allowed version; otherwise run deploy/docker/pin.py."""
    versions = read_versions(image)
    needs, alone = find_requirements(image)
    for need in map(Requirement, needs + alone):
        assert need.specifier.contains(versions[canonicalize_name(need.name)]), need


@pytest.mark.parametrize("image", IMAGES)
@pytest.mark.parametrize("python", PYTHONS)
def test_versions_are_the_tested_ones(image: str, python: str) -> None:
    """An image runs the versions of constraints.txt, which are the tested ones."""
    versions = read_versions(image, python)
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    here = {"python_version": python, "python_full_version": f"{python}.7"}
    tested = [Requirement(line) for line in lines if line and not line.startswith("#")]
    wrong = [
        f"{need.name} {version}, tested {need.specifier}"
        for need in tested
        if (version := versions.get(canonicalize_name(need.name)))
        and (need.marker is None or need.marker.evaluate(here))
        and not need.specifier.contains(version)
    ]
    assert wrong == []


def test_no_telemetry_is_installed() -> None:
    """Packages that report their use, or fail without a home, are in no image."""
    for file in (DOCKER / "requirements").glob("*.txt"):
        assert not LEFT_OUT & read_versions(file.stem).keys(), file


def test_a_wheel_with_another_hash_is_not_installed(tmp_path: Path) -> None:
    """A package with the right name and version but another hash is refused."""
    (line,) = re.findall("(?m)^idna==.*", (DOCKER / "requirements/scorer-cpu.txt").read_text())
    other = line.replace(line[-8:], f"{int(line[-8:], 16) ^ 1:08x}")
    for text, says in ((line, None), (other, "DO NOT MATCH THE HASHES"), (line.split()[0], "Hashes are required")):
        (tmp_path / "list.txt").write_text(f"{text}\n")
        command = [sys.executable, "-m", "pip", "install", "--no-deps", "--require-hashes", "--no-index", "--dry-run"]
        command += ["--ignore-installed", f"--find-links={find_tool('wheels')}", "-r", str(tmp_path / "list.txt")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (done.returncode == 0) is (says is None), done.stderr
        assert (says or "") in done.stderr
