"""`unlensed calibrate` as a user runs it: scan with features, calibrate, score with the new bundle."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from scorer.bundle.bundle import read_bundle
from scorer.commands.main import app
from scorer.errors import UsageError
from tests.scorer.archive.list_plan import FACE

pytestmark = pytest.mark.usefixtures("default_settings")
PHOTOGRAPHS, SOURCES = 160, 8


def run(*arguments: object) -> Result:
    """Run the command in this process."""
    return CliRunner().invoke(app, [str(each) for each in arguments])


def write_photographs(folder: Path, portrait: bytes) -> Path:
    """Write many versions of the portrait, in folders of sources, and return the file of their face boxes."""
    original = Image.open(io.BytesIO(portrait)).convert("RGB")
    rng = np.random.default_rng(8)
    boxes = {}
    for number in range(PHOTOGRAPHS):
        path = folder / f"source{number % SOURCES}" / f"{number:03d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = rng.normal(0, rng.uniform(1, 12), (512, 512, 3))
        pixels = np.clip(np.asarray(original) * rng.uniform(0.6, 1.1) + noise, 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(path, "JPEG", quality=int(rng.integers(60, 96)))
        boxes[path.as_uri()] = [{"face_id": "0", "box": FACE}]
    named = folder.with_suffix(".json")
    named.write_text(json.dumps(boxes))
    return named


@pytest.mark.slow
def test_from_a_scan_to_a_bundle_that_scores(root: Path, portrait: bytes, tmp_path: Path) -> None:
    """The new bundle verifies through the live engine, and scores the photographs of its calibration as promised."""
    boxes = write_photographs(tmp_path / "photos", portrait)
    starter, photos, scanned, new = root / "model_repository", tmp_path / "photos", tmp_path / "run", tmp_path / "new"
    common = ("--faces", boxes, "--out")
    done = run("scan", photos, *common, scanned, "--bundle", starter, "--keep-features")
    assert done.exit_code == 0, done.output
    checked = run("calibrate", "--check", scanned, "--json")
    before = json.loads(checked.stdout)
    assert before["recalibrate"] in {"yes", "no", "optional"}
    assert before["false_alarms"][0]["photographs"] == PHOTOGRAPHS
    table = run("calibrate", "--check", scanned)
    assert "source0" in table.stdout
    assert before["sentence"] in " ".join(table.stdout.split())
    made = run("calibrate", starter, "--from", scanned, "--out", new)
    assert made.exit_code == 0, made.output
    assert "not signed" in made.stderr
    verified = run("bundle", "verify", new)
    assert verified.exit_code == 0, verified.output
    assert read_bundle(new).model.digest in " ".join(made.stderr.split())
    again = run("scan", photos, *common, tmp_path / "again", "--bundle", new)
    assert again.exit_code == 0, again.output
    after = json.loads(run("calibrate", "--check", tmp_path / "again", "--json").stdout)
    assert after["bundle_digest"] == read_bundle(new).model.digest
    assert 0 < after["false_alarms"][-1]["share"] < 0.15, "5 % are promised, whatever the share was before"


def test_wrong_use(root: Path, tmp_path: Path) -> None:
    """Options that contradict each other are errors that state the right command."""
    for arguments, words in (
        ((), "unlensed calibrate BUNDLE --from RUN --out BUNDLE2"),
        ((root / "model_repository", "--from", tmp_path), "unlensed calibrate BUNDLE --from RUN --out BUNDLE2"),
        ((root / "model_repository", "--check", tmp_path), "leave BUNDLE, --from and --out out"),
        (("--check", tmp_path), "contains no run.json"),
    ):
        refused = run("calibrate", *arguments)
        assert isinstance(refused.exception, UsageError)
        assert words in str(refused.exception)
