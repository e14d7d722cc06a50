"""A real S3 server on the loopback, and a bundle for the GPU."""

from pathlib import Path

import pytest

from scorer.bundle.bundle import Bundle
from tests.scorer.engines.gpu_bundle import write_gpu_bundle
from tests.scorer.s3 import credentials, moto

__all__ = ["credentials", "moto"]


@pytest.fixture(scope="session")
def gpu_folder(starter: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle for the GPU without a plan; copy it before changing it."""
    return write_gpu_bundle(tmp_path_factory.mktemp("gpu") / "bundle", starter)
