"""`unlensed explain`, as a user runs it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from scorer.explain.messages import ExplainedResult

COMMAND = Path(sys.executable).parent / "unlensed"


def explain(*arguments: object, cwd: Path, root: Path) -> subprocess.CompletedProcess[str]:
    """Run the command with the starter bundle."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("UNLENSED_")}
    command = [COMMAND, "explain", *map(str, arguments), "--bundle", str(root / "model_repository"), "--threads", "1"]
    return subprocess.run(command, cwd=cwd, env=clean, capture_output=True, text=True, check=False, timeout=120)


@pytest.mark.slow
def test_explain_writes_json_and_a_sheet(tmp_path: Path, portrait: bytes, root: Path) -> None:
    """Both kinds of output are written, the sentences are printed, and a missing face is a wrong usage."""
    (tmp_path / "portrait.png").write_bytes(portrait)
    done = explain("portrait.png", "--out", "new/why.json", cwd=tmp_path, root=root)
    assert done.returncode == 0, done.stderr
    assert not done.stdout
    written = ExplainedResult.model_validate(json.loads((tmp_path / "new" / "why.json").read_text()))
    assert written.explanation.face_id == "0"
    shown = explain("portrait.png", "--face", "0", "--out", "why.html", cwd=tmp_path, root=root)
    assert "Saved again as a JPEG of quality 90" in shown.stderr
    assert (tmp_path / "why.html").read_text().startswith("<!DOCTYPE html>")
    assert explain("portrait.png", "--face", "9", cwd=tmp_path, root=root).returncode == 2
    assert explain("portrait.png", "--out", "why.pdf", cwd=tmp_path, root=root).returncode == 2


@pytest.mark.slow
def test_an_image_without_a_score_gets_one_line(tmp_path: Path, root: Path) -> None:
    """An image without a face and a missing file exit with 3 and one sentence, and nothing is written."""
    Image.new("RGB", (200, 200), "white").save(tmp_path / "white.png")
    for name in ("white.png", "missing.png"):
        done = explain(name, "--out", "why.html", cwd=tmp_path, root=root)
        assert done.returncode == 3
        assert len(done.stderr.strip().splitlines()) == 1, done.stderr
        assert name in done.stderr
        assert not (tmp_path / "why.html").exists()
