"""A stage for each fault test, a real S3 server, and a way to print what was measured."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.faults.stage import Stage
from tests.scorer.s3 import credentials, moto

__all__ = ["credentials", "moto", "say", "stage"]


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    """Fresh servers for one test."""
    with ExitStack() as stack:
        yield Stage(tmp_path, stack)


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Callable[[str], None]:
    """Print a measured figure so that it is visible without -s."""

    def write(line: str) -> None:
        with capsys.disabled():
            print(f"\n    {line}", flush=True)  # noqa: T201 - the figures are wanted in the log

    return write
