"""`unlensed scan` as a process of its own, and what it may have published."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq

COMMAND = Path(sys.executable).parent / "unlensed"
ROOMS = ("results", "errors")


def scan(root: Path, source: object, out: Path, *more: object) -> "subprocess.CompletedProcess[str]":
    """Run the command of the checkout `root`; a store's client gives up after two tries, so that tests are short."""
    command = [COMMAND, "scan", source, "--out", out, "--bundle", root / "model_repository", *more]
    return subprocess.run(
        [str(each) for each in command],
        cwd=root,
        env=clean_environment() | {"AWS_MAX_ATTEMPTS": "2"},
        capture_output=True,
        text=True,
        check=False,
    )


def clean_environment() -> dict[str, str]:
    """Return this process's variables without the tests' own and without settings."""
    return {name: value for name, value in os.environ.items() if not name.startswith("UNLENSED_")}


def check_published(folder: Path) -> int:
    """Return how many shards are committed; each file can be read, is named by a mark, and nothing lies beside."""
    marks = [json.loads(path.read_text()) for path in (folder / "_stats").glob("*")]
    named = {f"{room}/{name}" for mark in marks for room in ROOMS for name in mark[room]}
    found = {path.relative_to(folder).as_posix() for room in ROOMS for path in (folder / room).glob("*")}
    assert found == named
    for path in found:
        pq.read_table(folder / path, partitioning=None)
    return len(marks)
