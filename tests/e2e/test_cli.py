"""The installed command, as a user runs it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from PIL import Image

from scorer.messages import result_schema

COMMAND = Path(sys.executable).parent / "unlensed"


def unlensed(*arguments: object, cwd: Path, listed: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command with `listed` on standard input."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("UNLENSED_")}
    return subprocess.run(
        [COMMAND, *map(str, arguments)],
        cwd=cwd,
        input=listed,
        env=clean | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.fixture
def photographs(tmp_path: Path, portrait: bytes) -> Path:
    """A folder with the portrait and two files that cannot be scored."""
    folder = tmp_path / "photographs"
    folder.mkdir()
    (folder / "astronaut.png").write_bytes(portrait)
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 and no more")
    Image.new("RGB", (64, 64)).save(folder / "old.gif")
    return folder


def test_score_writes_lines_and_pictures(photographs: Path, tmp_path: Path, root: Path) -> None:
    """Each file gets one line that fits the schema, and the scored one an annotated picture."""
    out, pictures = tmp_path / "out" / "results.jsonl", tmp_path / "pictures"
    run = unlensed(
        "score",
        photographs,
        "--bundle",
        root / "model_repository",
        "--json",
        "--out",
        out,
        "--picture",
        pictures,
        cwd=tmp_path,
    )
    assert run.returncode == 3, run.stderr
    lines = run.stdout.splitlines()
    assert out.read_text().splitlines() == lines
    results = [json.loads(line) for line in lines]
    for result in results:
        jsonschema.validate(result, result_schema())
    assert [(Path(result["content_id"]).name, result["status"], result["reason_codes"]) for result in results] == [
        ("astronaut.png", "scored", []),
        ("broken.jpg", "failed", ["truncated"]),
        ("old.gif", "unsupported", ["unsupported_format"]),
    ]
    (picture,) = pictures.iterdir()
    page = np.asarray(Image.open(picture)).astype(int)
    plain = np.asarray(Image.open(photographs / "astronaut.png").convert("RGB")).astype(int)
    drawn, caption = page[: len(plain)], page[len(plain) :]
    assert drawn.shape == plain.shape
    assert np.ptp(caption) > 200  # black on white: what its decisions mean
    assert (abs(drawn - plain).max(axis=2) > 100).sum() > 500


def test_table_names_every_file_and_the_bundle(photographs: Path, tmp_path: Path, root: Path) -> None:
    """Without --json a person gets a table with one row a face and what the numbers mean."""
    run = unlensed(
        "score", photographs.name, "--bundle", root / "model_repository", "--max-failed", 2, cwd=tmp_path, COLUMNS="160"
    )
    assert run.returncode == 0, run.stderr
    for word in (
        "astronaut.png",
        "broken.jpg",
        "old.gif",
        "p-value",
        "held-out faces",
        "flag: unlike the photographs this bundle knows, no more",
    ):
        assert word in run.stdout
    assert "fake" not in run.stdout


def test_list_on_standard_input_and_given_boxes(photographs: Path, tmp_path: Path, root: Path) -> None:
    """Paths come from standard input, boxes from a file; a listed file that is gone gets a result."""
    image, gone = photographs / "astronaut.png", photographs / "gone.png"
    boxes = tmp_path / "boxes.json"
    boxes.write_text(json.dumps({str(image): [{"face_id": "me", "box": [180, 70, 95, 110]}]}))
    run = unlensed(
        "score",
        "-",
        "--faces",
        boxes,
        "--json",
        "--bundle",
        root / "model_repository",
        cwd=tmp_path,
        listed=f"{image}\n{gone}\n",
    )
    scored, missing = map(json.loads, run.stdout.splitlines())
    assert (scored["faces"][0]["face_id"], scored["faces"][0]["detector_confidence"]) == ("me", None)
    assert (missing["status"], missing["reason_codes"]) == ("failed", ["unreadable"])
    assert run.returncode == 3


@pytest.mark.parametrize(
    ("arguments", "code", "word"),
    [
        (["score", "nowhere.jpg"], 2, "nowhere.jpg"),
        (["score", "."], 2, "holds no image"),
        (["score", "--frobnicate"], 2, "frobnicate"),
        (["score", "x.jpg", "--bundle", "."], 65, "is no bundle"),
        (["score", "x.jpg", "--device", "cuda"], 78, "CUDA"),
        (["score", "x.jpg", "--threads", "0"], 78, "threads"),
        (["bundle", "verify", "."], 65, "is no bundle"),
        (["score", "x.jpg", "--picture", "x.jpg"], 75, "x.jpg"),
    ],
)
def test_errors_are_one_sentence_and_a_code(tmp_path: Path, arguments: list[str], code: int, word: str) -> None:
    """What is wrong is named in a sentence, with the documented exit code and without a traceback."""
    if arguments[1] == "x.jpg":
        (tmp_path / "x.jpg").write_bytes(b"")
    run = unlensed(*arguments, cwd=tmp_path)
    assert run.returncode == code, run.stderr
    assert word.lower() in run.stderr.lower()
    assert "Traceback" not in run.stderr


def test_doctor_explains_each_part(root: Path, tmp_path: Path) -> None:
    """Doctor names engine, decoder, device and bundle with a reason, and fails without a bundle."""
    healthy = unlensed("doctor", "--json", cwd=root)
    assert healthy.returncode == 0, healthy.stdout
    findings = {finding["part"]: finding for finding in json.loads(healthy.stdout)}
    assert {"device", "decoder", "engine", "bundle", "detector", "extractor", "policy"} <= findings.keys()
    assert all(finding["why"] for finding in findings.values())
    lost = unlensed("doctor", cwd=tmp_path)
    assert lost.returncode == 78
    assert "is no bundle" in lost.stdout


def test_bundle_verify_reports_the_drift(root: Path, tmp_path: Path) -> None:
    """The shipped bundle verifies from any folder and says how close the live engine is."""
    run = unlensed("bundle", "verify", root / "model_repository", cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert "nats" in run.stdout
