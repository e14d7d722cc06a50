"""The installed command, as a user runs it."""

import json
import os
import signal
import subprocess
import sys
import time
import unicodedata
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


def acts(text: str) -> bool:
    """Return whether a character of `text` is neither printable nor a line end."""
    return any(unicodedata.category(c) in {"Cc", "Cf", "Cs", "Co"} for c in text.replace("\n", ""))


@pytest.fixture
def photographs(tmp_path: Path, portrait: bytes) -> Path:
    """A folder with the portrait and two files that cannot be scored."""
    folder = tmp_path / "photographs"
    folder.mkdir()
    (folder / "astronaut.png").write_bytes(portrait)
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 and no more")
    Image.new("RGB", (64, 64)).save(folder / "old.bmp")
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
        ("old.bmp", "unsupported", ["unsupported_format"]),
    ]
    (picture,) = pictures.glob("*.jpg")
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
        "old.bmp",
        "p-value",
        "held-out faces",
        "flag: unlike the photographs this bundle knows, no more",
    ):
        assert word in run.stdout
    assert "fake" not in run.stdout


def test_list_on_standard_input_and_given_boxes(photographs: Path, tmp_path: Path, root: Path) -> None:
    """Paths come from standard input, boxes from a file; a missing file gets a result."""
    image, gone = photographs / "astronaut.png", photographs / "gone.png"
    boxes = tmp_path / "boxes.json"
    boxes.write_text(json.dumps({str(image): [{"face_id": "me", "box": [180, 70, 95, 110]}], str(gone): []}))
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


ERRORS = [
    (["score", "nowhere.jpg"], 2, "nowhere.jpg"),
    (["score", "."], 2, "contains no image"),
    (["score", "--frobnicate"], 2, "frobnicate"),
    (["score", "x.jpg", "--bundle", "."], 65, "is not a bundle"),
    (["score", "x.jpg", "--device", "cuda"], 78, "CUDA"),
    (["score", "x.jpg", "--threads", "0"], 78, "threads"),
    (["bundle", "verify", "."], 65, "is not a bundle"),
    (["score", "x.jpg", "--picture", "x.jpg"], 2, "x.jpg"),
    (["score", "x.jpg", "--picture", "s3://bucket/pictures"], 2, "s3://bucket/pictures"),
    (["score", "x.jpg", "--out", "."], 2, "directory"),
    (["score", "x.jpg", "--out", "s3://bucket/out.jsonl"], 2, "s3://bucket/out.jsonl"),
    (["score", "x.jpg", "--out", "x.jpg"], 2, "input files"),
    (["score", "x.jpg", "--picture", "."], 2, "name another folder"),
    (["score", "x.jpg", "--faces", "none.json"], 2, "none.json"),
    (["score", "*.png"], 2, "*.png"),
    (["score", "-"], 2, "standard input is empty"),
    (["score", "x.jpg", "--device", "tpu"], 2, "cuda"),
    (["serve", "--mode", "dark"], 2, "shadow"),
    (["compare", "a", "b", "--out", "."], 2, "directory"),
    (["scan", ".", "--out", "gs://bucket/run"], 2, "gs://bucket/run"),
    (["schema", "--write", "x.jpg"], 2, "x.jpg"),
    (["sc\x1b[31m[/x]"], 2, r"sc\x1b[31m[/x]"),
    (["score", "\u202e[/x]"], 2, r"\u202e[/x]"),
]


@pytest.mark.parametrize(
    ("arguments", "code", "word"),
    # Each case is a process of a second or two: one in four is part of the fast suite.
    [pytest.param(*case, marks=pytest.mark.long if number % 4 else ()) for number, case in enumerate(ERRORS)],
)
def test_errors_are_one_sentence_and_a_code(tmp_path: Path, arguments: list[str], code: int, word: str) -> None:
    """What is wrong is named in a sentence, with the documented exit code and without a traceback."""
    if "x.jpg" in arguments:
        (tmp_path / "x.jpg").write_bytes(b"")
    run = unlensed(*arguments, cwd=tmp_path)
    assert run.returncode == code, run.stderr
    assert word.lower() in run.stderr.lower()
    assert "Traceback" not in run.stderr
    assert not acts(run.stderr)


def test_doctor_explains_each_part(root: Path, tmp_path: Path) -> None:
    """Doctor names engine, decoder, device and bundle with a reason, and fails without a bundle."""
    healthy = unlensed("doctor", "--json", cwd=root)
    assert healthy.returncode == 0, healthy.stdout
    findings = {finding["part"]: finding for finding in json.loads(healthy.stdout)}
    assert {"device", "decoder", "engine", "bundle", "detector", "extractor", "policy"} <= findings.keys()
    assert all(finding["why"] for finding in findings.values())
    lost = unlensed("doctor", "--bundle", ".", cwd=tmp_path)
    assert lost.returncode == 65
    assert "is not a bundle" in lost.stdout


def test_bundle_verify_reports_the_drift(root: Path, tmp_path: Path) -> None:
    """The shipped bundle verifies from any folder, and the output states the difference of the live engine."""
    run = unlensed("bundle", "verify", root / "model_repository", cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert "nats" in run.stdout


HOSTILE = [
    b"a\x1b[2J\x1b]0;PWNED\x07.png",
    b"c\xc2\x9b31mC1.png",
    b"cr\rOVER.png",
    "\U0001f600".encode() * 61 + b".png",
    b"[red]m[x].png",
    b"<img src=x onerror=alert(1)>.jpg",
    "\u202egpj.exe.png".encode(),
    b"\xff\xfe.png",
    b"two\nlines.png",
]
OTHER_LOCALE = {"LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "environment",
    [
        pytest.param({"COLUMNS": "40"}, id="40"),
        pytest.param({"COLUMNS": "80"}, id="80", marks=pytest.mark.long),
        pytest.param(OTHER_LOCALE, id="POSIX"),
    ],
)
def test_no_name_acts_or_ends_a_run(tmp_path: Path, portrait: bytes, root: Path, environment: dict[str, str]) -> None:
    """Under any name and in any locale a file is scored, drawn, written as UTF-8, and shown so that it can be found."""
    folder, out, pictures = tmp_path / "hostile", tmp_path / "out.jsonl", tmp_path / "pictures"
    folder.mkdir()
    for name in HOSTILE:
        (folder / os.fsdecode(name)).write_bytes(portrait)
    arguments = ("score", folder.name, "--bundle", root / "model_repository", "--out", out)
    run = unlensed(*arguments, "--picture", pictures, cwd=tmp_path, **environment)
    assert run.returncode == 0, run.stderr
    assert not acts(run.stdout + run.stderr)
    assert "two\\nlines.png" in run.stdout
    assert f"Written: {len(HOSTILE)} lines in {out}, {len(HOSTILE)} pictures in {pictures}." in run.stderr
    lines = unlensed(*arguments, "--json", cwd=tmp_path, **environment).stdout.splitlines()
    written = out.read_bytes().decode("utf-8").splitlines()
    for answers in (lines, written):
        shown = {json.loads(line)["content_id"] for line in answers}
        assert shown == {f"hostile/{name.decode(errors='backslashreplace')}" for name in HOSTILE}
        assert not acts("".join(answers))
    assert len(list(pictures.glob("*.jpg"))) == len(HOSTILE)


@pytest.mark.slow
def test_boxes_that_do_not_meet_the_files_end_the_run_before_it(photographs: Path, tmp_path: Path, root: Path) -> None:
    """Keys below the given folder are found; a file without a key is an error unless it is skipped or detected."""
    boxes = tmp_path / "boxes.json"
    boxes.write_text(json.dumps({"astronaut.png": [{"face_id": "me", "box": [180, 70, 95, 110]}]}))
    arguments = ("score", photographs, "--faces", boxes, "--json", "--bundle", root / "model_repository")
    refused = unlensed(*arguments, cwd=tmp_path)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "broken.jpg" in refused.stderr
    skipping = unlensed(*arguments, "--faces-missing", "skip", cwd=tmp_path)
    (line,) = map(json.loads, skipping.stdout.splitlines())
    assert line["faces"][0]["face_id"] == "me"
    assert "2 skipped (2 without boxes)" in skipping.stderr
    detecting = unlensed(*arguments, "--faces-missing", "detect", cwd=tmp_path)
    assert len(detecting.stdout.splitlines()) == 3


@pytest.mark.slow
def test_ctrl_c_says_what_was_written(tmp_path: Path, portrait: bytes, root: Path) -> None:
    """Exit code 130, and the file contains the stated number of complete lines."""
    folder, out = tmp_path / "many", tmp_path / "out.jsonl"
    folder.mkdir()
    for number in range(3000):
        (folder / f"{number}.png").symlink_to(folder / "0.png") if number else (folder / "0.png").write_bytes(portrait)
    run = subprocess.Popen(
        [COMMAND, "score", folder, "--out", out, "--json", "--bundle", root / "model_repository"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        # A terminal's own children do not ignore Ctrl-C; those of a job in the background do.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 - no thread of this test runs
    )
    deadline_s = time.monotonic() + 60
    while not (out.exists() and out.stat().st_size) and run.poll() is None and time.monotonic() < deadline_s:
        time.sleep(0.05)
    run.send_signal(signal.SIGINT)
    _, said = run.communicate(timeout=60)
    assert run.returncode == 130, said
    lines = [json.loads(line) for line in out.read_text("utf-8").splitlines()]
    assert 0 < len(lines) < 3000
    assert f"{len(lines)} line{'' if len(lines) == 1 else 's'} in {out}" in said
    assert "Traceback" not in said


@pytest.mark.parametrize("command", ["unlensed", "unlensed-train"])
def test_commands_say_their_version_and_complete_themselves(command: str, tmp_path: Path) -> None:
    """`--version` prints one line, and a shell is given its completion."""
    program = COMMAND.with_name(command)
    version = subprocess.run([program, "--version"], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert version.stdout.startswith("unlensed 0.")
    variable = f"_{command.upper().replace('-', '_')}_COMPLETE"
    script = subprocess.run(
        [program], env=os.environ | {variable: "source_bash"}, capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert f"complete -o default -F _{command.replace('-', '_')}_completion {command}" in script.stdout
    offered = subprocess.run(
        [program],
        env=os.environ | {variable: "complete_bash", "COMP_WORDS": f"{command} ", "COMP_CWORD": "1"},
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert {"unlensed": "score", "unlensed-train": "prepare"}[command] in offered.stdout.split()
