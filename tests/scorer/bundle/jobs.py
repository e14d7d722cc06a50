"""The command of each job that reads a bundle, run in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

UNLENSED = Path(sys.executable).parent / "unlensed"
JOBS = {
    "score": "score {images}",
    "scan": "scan {images} --out {out}",
    "serve": "serve --replay {requests}",
    "doctor": "doctor",
}


def run_command(*arguments: object, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run `unlensed` with no other settings than those in `environment`."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("UNLENSED_")}
    command = [str(each) for each in (UNLENSED, *arguments)]
    return subprocess.run(command, env=clean | environment, capture_output=True, text=True, check=False, timeout=120)


def run_job(
    job: str, bundle: Path, folder: Path, portrait: bytes, *options: object, **environment: str
) -> "subprocess.CompletedProcess[str]":
    """Run a job of `JOBS` on one picture, or one request, in `folder`."""
    (folder / "images").mkdir()
    (folder / "images" / "a.png").write_bytes(portrait)
    (folder / "requests.jsonl").write_text('{"request_id": "a"}\n')
    line = JOBS[job].format(images=folder / "images", out=folder / "run", requests=folder / "requests.jsonl")
    return run_command(*line.split(), "--bundle", bundle, *options, **environment)
