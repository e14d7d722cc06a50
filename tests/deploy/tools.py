"""Finds the tools that test deploy/: hadolint, docker-compose, Prometheus and others."""

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOOLS = Path(os.environ.get("UNLENSED_TOOLS", ROOT / ".tools"))


def find_tool(name: str) -> Path:
    """Return the path of a tool; where it is missing, skip the test, or fail in CI."""
    tool = TOOLS / name
    if not tool.exists():
        message = f"{tool} does not exist: `make check-deploy` and `make test-slow` fetch it"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(message)
    return tool


def run_tool(name: str, *arguments: object) -> "subprocess.CompletedProcess[str]":
    """Run a tool in the checkout."""
    command = [str(find_tool(name)), *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
