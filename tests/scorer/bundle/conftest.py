"""A copy of the starter bundle, for tests that damage it."""

import shutil
from pathlib import Path

import pytest

from scorer.bundle.bundle import Bundle


@pytest.fixture
def copy(starter: Bundle, tmp_path: Path) -> Path:
    """A private copy of the starter bundle."""
    return Path(shutil.copytree(starter.folder, tmp_path / "bundle"))
