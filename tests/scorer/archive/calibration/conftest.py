"""The small bundle of the tests."""

import pytest

from scorer.bundle.bundle import Bundle
from tests.scorer.archive.calibration.synthetic_run import write_small_bundle


@pytest.fixture(scope="module")
def bundle(starter: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle of 6 features with one full covariance."""
    return write_small_bundle(starter, tmp_path_factory.mktemp("bundles") / "small")
