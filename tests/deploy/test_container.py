"""The scorer's image without a container engine."""

import base64
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.deploy.images import ROOT, read_stages
from tests.deploy.sealed import can_seal, seal
from tests.deploy.tools import find_tool

BUNDLE = ROOT / "model_repository"
Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The environment of the image's target `cpu`, installed offline."""
    wheels, folder = find_tool("wheels"), tmp_path_factory.mktemp("image")
    stages = read_stages("scorer")
    for path in stages["wheel"].copied:
        source, target = ROOT / path, folder / "src" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(source, target) if source.is_dir() else shutil.copy(source, target)
    tools, environment = folder / "tools", folder / "unlensed"
    for place, needs in (tools, "build"), (environment, "scorer-cpu"):
        run(sys.executable, "-m", "venv", "--without-pip", place)
        pip(place, "--require-hashes", "--find-links", wheels, "-r", ROOT / f"deploy/docker/requirements/{needs}.txt")
    build = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        tools / "bin/python",
        "wheel",
        "--no-deps",
        "--no-build-isolation",
    ]
    run(*build, "--quiet", "--wheel-dir", folder, folder / "src")
    pip(environment, *folder.glob("*.whl"))
    yield environment
    shutil.rmtree(folder)  # 1.4 GB


@pytest.fixture(scope="module")
def contained(environment: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Run the image's entry point with its user and variables, without a home."""
    if not can_seal():
        message = "mount namespaces cannot be made here: only root can rehearse a container"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(message)
    image = read_stages("scorer")["cpu"]
    settings = image.environment | {"PATH": f"{environment / 'bin'}:/usr/bin:/bin", "UNLENSED_BUNDLE": str(BUNDLE)}
    del settings["HOME"]

    def run_contained(*arguments: object, python: bool = False) -> "subprocess.CompletedProcess[str]":
        entry = ["python"] if python else image.entrypoint
        seen = [argument.parent for argument in arguments if isinstance(argument, Path)]
        command = seal(
            [*entry, *map(str, arguments)],
            user=image.user,
            environment=settings,
            seen=[Path(sys.base_prefix), environment, BUNDLE, *seen],
            scratch=tmp_path_factory.mktemp("sealed"),
        )
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)

    return run_contained


def run(*command: object) -> None:
    """Run a command that must succeed."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def pip(environment: Path, *arguments: object) -> None:
    """Install packages, offline, into an environment without pip."""
    options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--no-index", "--no-compile"]
    run(sys.executable, "-m", "pip", "--python", environment / "bin/python", "install", *options, *arguments)


def test_only_temporary_files_can_be_written(contained: Run) -> None:
    """Environment, bundle and system are read-only, and /tmp is writable."""
    places = f"{BUNDLE}/x /etc/x /var/tmp/x /tmp/x"
    done = contained("-c", f"import os; [print(os.system(f'touch {{p}}')) for p in '{places}'.split()]", python=True)
    assert done.stdout.split() == ["256", "256", "256", "0"], done.stderr


def test_doctor_finds_everything(contained: Run) -> None:
    """`unlensed doctor` succeeds as the image's user, without a home, on a read-only root."""
    done = contained("doctor", "--json")
    assert done.returncode == 0, done.stdout + done.stderr


def test_bundle_is_verified(contained: Run) -> None:
    """The golden faces pass the live engine of the image's packages."""
    done = contained("bundle", "verify", str(BUNDLE))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "files as recorded" in done.stdout


def test_service_answers(contained: Run, portrait: bytes, tmp_path: Path) -> None:
    """The service finds and scores a face, and exits with 0."""
    image = {"bytes": base64.b64encode(portrait).decode()}
    tmp_path.chmod(0o755)
    requests = tmp_path / "requests.jsonl"
    requests.write_text(json.dumps({"request_id": "r", "content_id": "c", "image": image}))
    done = contained("serve", "--replay", requests)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["status"] == "scored"


def test_http_service_can_be_imported(contained: Run) -> None:
    """The image contains every package of `unlensed api`."""
    done = contained("-c", "import scorer.api.server", python=True)
    assert done.returncode == 0, done.stderr


def test_packages_lack_only_what_is_left_out(environment: Path) -> None:
    """Only OpenVINO's telemetry is missing."""
    check = [sys.executable, "-m", "pip", "--python", str(environment / "bin/python"), "check"]
    done = subprocess.run(check, capture_output=True, text=True, check=False)
    assert [line.split()[0] + " " + line.split()[3] for line in done.stdout.splitlines()] == [
        "openvino openvino-telemetry,"
    ], done.stdout
