"""Fixtures of several folders: the starter bundle, its engine, and a public-domain portrait."""

import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import skimage
from hypothesis import settings

from deploy.local.triton import TritonServer, find_python
from ingest.detect import FaceDetector, load_detector
from ingest.sandbox import Sandbox
from scorer.bundle.bundle import Bundle, read_bundle
from scorer.engines.local import open_sandbox
from scorer.engines.openvino import LocalEmbedder
from scorer.local_scorer import LocalScorer
from scorer.settings import Settings

ROOT = Path(__file__).resolve().parent.parent

# Hypothesis's deadline is a wall time, which a busy machine misses. `make nightly` draws more examples.
settings.register_profile("unlensed", deadline=None, max_examples=int(os.environ.get("UNLENSED_EXAMPLES", "50")))
settings.load_profile("unlensed")


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture
def default_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands of this process get no settings of the environment."""
    for name in [*filter(lambda name: name.startswith("UNLENSED_"), os.environ), "JOB_COMPLETION_INDEX"]:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def starter() -> Bundle:
    """The bundle that this repository ships."""
    return read_bundle(ROOT / "model_repository")


@pytest.fixture(scope="session")
def sandbox(starter: Bundle) -> Iterator[Sandbox]:
    """A process that finds and cuts faces for the starter bundle."""
    with closing(open_sandbox(starter, 1)) as sandbox:
        yield sandbox


@pytest.fixture(scope="session")
def embedder(starter: Bundle, sandbox: Sandbox) -> LocalEmbedder:
    """The starter bundle's live engine."""
    return LocalEmbedder(starter, 1, sandbox)


@pytest.fixture(scope="session")
def detector(starter: Bundle) -> FaceDetector:
    """The starter bundle's detector, on one thread."""
    return load_detector(starter.folder, starter.manifest.detector, threads=1)


@pytest.fixture(scope="session")
def local_scorer() -> LocalScorer:
    """The whole local scorer on the starter bundle."""
    return LocalScorer(Settings(bundle=ROOT / "model_repository", threads=1, batch_images=4))


@pytest.fixture(scope="session")
def portrait() -> bytes:
    """The public-domain astronaut portrait as scikit-image ships it: 512 x 512 PNG, one face."""
    return (Path(skimage.__file__).parent / "data" / "astronaut.png").read_bytes()


@pytest.fixture(scope="session")
def triton_python() -> Path:
    """The interpreter of Triton's environment; where there is none, tests are skipped, but never in CI."""
    python = find_python()
    if not python.is_file():
        message = f"{python} does not exist: `make .venv-triton/installed` makes Triton's environment"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(message)
    return python


@pytest.fixture(scope="session")
def triton(triton_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    """A real server of the starter bundle; a test that stops it starts it again."""
    with TritonServer(ROOT / "model_repository", tmp_path_factory.mktemp("triton"), triton_python) as server:
        yield server
