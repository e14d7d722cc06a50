"""Finds the tools that test deploy/: hadolint, docker-compose, Prometheus and others."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOOLS = Path(os.environ.get("UNLENSED_TOOLS", ROOT / ".tools"))


def find_tool(name: str) -> Path:
    """Return the path of a tool; where it is missing, skip the test, or fail in CI."""
    tool = TOOLS / name
    if not tool.exists():
        message = f"{tool} does not exist: `make .tools/installed` fetches it"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(message)
    return tool
