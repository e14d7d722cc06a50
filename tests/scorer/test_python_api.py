"""The public API: what `import scorer` offers, from a checkout and from an installed wheel."""

import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import scorer
from scorer.messages import Status

CALLS = """
import scorer, sys
with scorer.open_scorer(threads=1) as opened:
    assert opened.bundle.folder.name == "model_repository", opened.bundle.folder
    (of_file,) = opened.score_files([sys.argv[1]])
    of_bytes = opened.score_bytes(open(sys.argv[1], "rb").read())
    assert isinstance(of_file, scorer.ScoreResult)
    assert of_file.faces == of_bytes.faces and of_file.status == "scored"
print(opened.bundle.folder)
"""


@pytest.fixture(scope="module", name="opened")
def fixture_opened(root: Path) -> Iterator[scorer.Scorer]:
    """The starter bundle, opened."""
    with scorer.open_scorer(root / "model_repository", threads=1) as opened:
        yield opened


def test_every_public_name_is_there() -> None:
    """Each name of `__all__` resolves, and no other does."""
    assert all(getattr(scorer, name).__doc__ for name in scorer.__all__)
    assert set(scorer.__all__) <= set(dir(scorer))
    with pytest.raises(AttributeError, match="no attribute 'score_everything'"):
        scorer.score_everything  # noqa: B018 - the access is what is tested


def test_importing_the_package_loads_no_engine() -> None:
    """`import scorer` loads neither NumPy nor OpenVINO nor DALI."""
    code = "import scorer, sys; print(*({'numpy', 'openvino', 'nvidia', 'pydantic'} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert run.stdout.strip() == ""


def test_files_and_bytes_get_the_same_faces(opened: scorer.Scorer, portrait: bytes, tmp_path: Path) -> None:
    """A file and its bytes give the same answer, bit for bit, with found and with given boxes."""
    path = tmp_path / "portrait.png"
    path.write_bytes(portrait)
    (found,) = opened.score_files([path])
    assert found.status is Status.SCORED
    assert opened.score_bytes(portrait).faces == found.faces
    box = {"face_id": "brought", "box": found.faces[0].box}
    (brought,) = opened.score_bytes(portrait, faces=[box], name="mine").faces
    assert brought.face_id == "brought"
    assert brought.log_likelihood == found.faces[0].log_likelihood
    assert opened.score_bytes(portrait, faces=[], name="mine").request_id == "mine"


def test_what_cannot_be_scored_is_a_result(opened: scorer.Scorer, tmp_path: Path) -> None:
    """A missing file, a folder and bytes that are not an image give results, in order, and none is `pass`."""
    results = list(opened.score_files([tmp_path / "nothing.jpg", tmp_path]))
    assert [result.status for result in results] == [Status.FAILED, Status.FAILED]
    result = opened.score_bytes(b"no image")
    assert result.status is Status.UNSUPPORTED
    assert result.decision is None


def test_an_iteration_that_ends_early_frees_the_engine(opened: scorer.Scorer, portrait: bytes, tmp_path: Path) -> None:
    """After the iterator is closed, bytes are scored again."""
    path = tmp_path / "portrait.png"
    path.write_bytes(portrait)
    results = opened.score_files([path] * 3)
    next(results)
    results.close()  # type: ignore[attr-defined]  # a generator
    assert opened.score_bytes(portrait).status is Status.SCORED


@pytest.mark.slow
def test_an_installed_wheel_scores_in_any_folder(root: Path, portrait: bytes, tmp_path: Path) -> None:
    """The wheel holds the starter bundle and the type markers; API and command find the bundle."""
    image, site, elsewhere = tmp_path / "portrait.png", tmp_path / "site", tmp_path / "elsewhere"
    image.write_bytes(portrait)
    elsewhere.mkdir()
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", tmp_path, root]
    subprocess.run(build, check=True, timeout=120)
    (wheel,) = tmp_path.glob("unlensed-*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {f"{package}/py.typed" for package in ("ingest", "scorer", "training")} <= names
    subprocess.run([*pip, "install", "--no-deps", "--target", site, wheel], check=True, timeout=120)
    environment = os.environ | {"PYTHONPATH": str(site)}
    run = subprocess.run(
        [sys.executable, "-c", CALLS, image],
        cwd=elsewhere,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert Path(run.stdout.strip()) == site / "scorer" / "model_repository"
    command = [sys.executable, "-c", "from scorer.commands.main import main; main()", "score", image]
    scored = subprocess.run(
        command, cwd=elsewhere, env=environment, capture_output=True, text=True, check=False, timeout=120
    )
    assert scored.returncode == 0, scored.stderr
