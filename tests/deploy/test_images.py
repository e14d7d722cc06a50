"""The Dockerfiles: hadolint, and further rules of this project."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

from tests.deploy.images import DOCKER, ROOT, read_stages
from tests.deploy.tools import run_tool

FILES = sorted(DOCKER.glob("*.Dockerfile"))
IMAGES = [("scorer", "cpu"), ("scorer", "gpu"), ("triton", "cpu"), ("triton", "gpu"), ("training", "training")]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_hadolint_finds_nothing(file: Path) -> None:
    """No finding of any severity, and no rule switched off."""
    done = run_tool("hadolint", "--disable-ignore-pragma", "--failure-threshold", "ignore", file)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_hadolint_finds_what_is_wrong(tmp_path: Path) -> None:
    """The check above can fail: an unpinned base and package are found."""
    bad = tmp_path / "Dockerfile"
    bad.write_text("FROM python\nRUN pip install numpy\n")
    assert run_tool("hadolint", bad).returncode == 1


@pytest.mark.parametrize(("name", "target"), IMAGES)
def test_image_runs_unprivileged(name: str, target: str) -> None:
    """Each image has a numeric user and an entry point without a shell."""
    stage = read_stages(name)[target]
    assert stage.user == "65532:65532"
    assert stage.entrypoint


@pytest.mark.parametrize(("name", "target"), [image for image in IMAGES if image[1] == "gpu"])
def test_gpu_images_need_a_digest(name: str, target: str) -> None:
    """NVIDIA's images need a digest; no image contains an engine."""
    stage = read_stages(name)[target]
    digest = stage.base.rpartition("@")[2]
    assert digest.startswith("${")
    assert f"\nARG {digest[2:-1]}=sha256:{'0' * 64}\n" in (DOCKER / f"{name}.Dockerfile").read_text()
    assert not any(file.endswith((".plan", ".onnx")) or "model_repository" in file for file in stage.copied)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_every_package_comes_with_its_hash(file: Path) -> None:
    """Packages are installed from lists with hashes, or are wheels of another stage."""
    for stage in read_stages(file.name.removesuffix(".Dockerfile")).values():
        for command in (part for run in stage.runs for part in run.split("&&") if " install " in part):
            assert "--no-deps" in command
            assert "--require-hashes" in command or "--no-index" in command


@pytest.mark.parametrize("name", ["scorer", "triton", "training"])
def test_copied_paths_are_in_the_build_context(name: str) -> None:
    """Each path that a stage copies is tracked, and allowed by .dockerignore."""
    let_through = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    for stage in read_stages(name).values():
        for path in stage.copied:
            tracked = subprocess.run(["git", "ls-files", path], cwd=ROOT, capture_output=True, check=True).stdout  # noqa: S607 - git, from the PATH
            assert tracked, f"{path} is not tracked"
            assert any(path == entry or path.startswith(f"{entry}/") for entry in let_through), path


@pytest.mark.parametrize(
    "file", [file for file in FILES if file.name != "bundle.Dockerfile"], ids=lambda file: file.name
)
def test_images_and_chart_state_the_release(file: Path) -> None:
    """Labels and the chart's `appVersion` are the version of pyproject.toml."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    labels = re.findall(r'^LABEL .*image\.version="([^"]+)"', file.read_text(), re.MULTILINE)
    starts = re.findall(r"^ENTRYPOINT", file.read_text(), re.MULTILINE)
    assert labels == [version] * len(starts)
    assert yaml.safe_load((ROOT / "deploy/helm/Chart.yaml").read_text())["appVersion"] == version
