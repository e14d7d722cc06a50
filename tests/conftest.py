"""What several rooms' tests share: the starter bundle, its engine, and a public-domain portrait."""

from pathlib import Path

import pytest
import skimage

from scorer.bundle import Bundle, read_bundle
from scorer.engine import LocalScorer
from scorer.openvino_embedder import LocalEmbedder
from scorer.settings import Settings

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture(scope="session")
def starter() -> Bundle:
    """The bundle that this repository ships."""
    return read_bundle(ROOT / "model_repository")


@pytest.fixture(scope="session")
def embedder(starter: Bundle) -> LocalEmbedder:
    """The starter bundle's live engine."""
    return LocalEmbedder(starter, threads=1)


@pytest.fixture(scope="session")
def local_scorer() -> LocalScorer:
    """The whole local scorer on the starter bundle."""
    return LocalScorer(Settings(bundle=ROOT / "model_repository", threads=1, batch_images=4))


@pytest.fixture(scope="session")
def portrait() -> bytes:
    """The public-domain astronaut portrait as scikit-image ships it: 512 x 512 PNG, one face."""
    return (Path(skimage.__file__).parent / "data" / "astronaut.png").read_bytes()
