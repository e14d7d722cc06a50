"""Loads an adapter from its folder: the folders of deploy/adapters are no packages."""

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from tests.scorer.api.conftest import client, serve, token_file

__all__ = ["client", "serve", "token_file"]  # fixtures

Load = Callable[[str], ModuleType]


@pytest.fixture(scope="session")
def load(root: Path) -> Load:
    """Import a file of deploy/adapters."""

    def read(path: str) -> ModuleType:
        file = root / "deploy/adapters" / path
        spec = importlib.util.spec_from_file_location(file.stem, file)
        assert spec
        assert spec.loader
        module = importlib.util.module_from_spec(spec)
        sys.modules[file.stem] = module
        spec.loader.exec_module(module)
        return module

    return read
