"""`unlensed scan` in its own process, and a check of the files that it published."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq

COMMAND = Path(sys.executable).parent / "unlensed"
KINDS = ("results", "errors")


def scan(root: Path, source: object, out: Path, *more: object) -> "subprocess.CompletedProcess[str]":
    """Run the command of the checkout `root`, with two attempts at a store to be short."""
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
    """Return this process's environment variables without settings of unlensed."""
    return {name: value for name, value in os.environ.items() if not name.startswith("UNLENSED_")}


def check_published(folder: Path) -> int:
    """Return how many shards are committed; check that marks name all files, which can be read."""
    marks = [json.loads(path.read_text()) for path in (folder / "_stats").glob("*")]
    named = {f"{kind}/{name}" for mark in marks for kind in KINDS for name in mark[kind]}
    found = {path.relative_to(folder).as_posix() for kind in KINDS for path in (folder / kind).glob("*")}
    assert found == named
    for path in found:
        pq.read_table(folder / path, partitioning=None)
    return len(marks)
