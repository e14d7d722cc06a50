"""`unlensed scan` as a user runs it."""

import html
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner, Result

from scorer.commands.main import app
from scorer.errors import Exit, RunRefused, UsageError
from tests.scorer.archive.killed_scan import read_images
from tests.scorer.archive.list_plan import make_archive
from tests.scorer.archive.source.archives import fill, make_tar

pytestmark = pytest.mark.usefixtures("default_settings")
COMMAND = Path(sys.executable).parent / "unlensed"


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory, portrait: bytes) -> Path:
    """Fourteen photographs, two of them broken."""
    return make_archive(tmp_path_factory.mktemp("archive") / "photographs", portrait, 14)


def scan(root: Path, images: Path, out: Path, *more: object) -> Result:
    """Run the command in this process."""
    arguments = ["scan", images, "--out", out, "--bundle", root / "model_repository", "--shard-images", 4, *more]
    return CliRunner().invoke(app, [str(each) for each in arguments])


@pytest.mark.slow
def test_processes_share_a_run_by_index(
    root: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes complete the run; the last one finishes it; the same command again changes nothing."""
    out = tmp_path / "run"
    first = scan(root, images, out, "--of", 2, "--max-failed", 9)
    assert (first.exit_code, (out / "_SUCCESS").exists()) == (0, False), first.output
    assert sorted(path.stem for path in (out / "_stats").iterdir()) == ["00000", "00002"]
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "1")
    second = scan(root, images, out, "--of", 2)
    assert (second.exit_code, (out / "_SUCCESS").exists()) == (3, True), second.output
    rows = read_images(out)
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["images"], summary["failed"], summary["complete"]) == (14, 2, True)
    assert sorted(Path(name).name for name in rows) == sorted(path.name for path in images.iterdir())
    before = {path: path.stat().st_mtime_ns for path in (out / "results").iterdir()}
    assert scan(root, images, out, "--of", 2, "--retry-failed").exit_code == 3
    assert {path: path.stat().st_mtime_ns for path in (out / "results").iterdir()} == before


@pytest.mark.slow
def test_another_policy_is_refused(root: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run is resumed only with its own policy; --new-run keeps the old results under another name."""
    out = tmp_path / "run"
    assert scan(root, images, out, "--max-failed", 2).exit_code == 0
    monkeypatch.setenv("UNLENSED_POLICY__REVIEW_FALSE_ALARM_RATE", "0.1")
    refused = scan(root, images, out)
    assert isinstance(refused.exception, RunRefused)
    assert "review_false_alarm_rate is 0.05, now it would be 0.1" in str(refused.exception)
    assert scan(root, images, out, "--new-run", "--max-failed", 2).exit_code == 0
    assert len(list(tmp_path.glob("run*/_SUCCESS"))) == 2


@pytest.mark.slow
def test_dry_run_counts_and_measures(root: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dry run counts the images and estimates the duration without writing; on a terminal it prints a table."""
    counted = scan(root, images, tmp_path / "run", "--dry-run")
    facts = json.loads(counted.stdout)
    assert (facts["images"], facts["shards"]) == (14, 4)
    assert facts["image_bytes"] == sum(path.stat().st_size for path in images.iterdir())
    assert facts["sampled_images"] == 14
    assert facts["duration_s"] == pytest.approx(14 / facts["images_per_s"])
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    table = scan(root, images, tmp_path / "run", "--dry-run").stdout
    assert "measured on 14 of them" in table
    assert json.loads(scan(root, images, tmp_path / "run", "--dry-run", "--json").stdout)["shards"] == 4
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_terminated_scan_exits_75_and_is_resumed(root: Path, tmp_path: Path, portrait: bytes) -> None:
    """SIGTERM ends a scan with an error that states how to resume; the same command then does the rest."""
    images = make_archive(tmp_path / "photographs", portrait, 200)
    out = tmp_path / "run"
    command = [COMMAND, "scan", images, "--out", out, "--bundle", root / "model_repository", "--shard-images", "10"]
    with subprocess.Popen(command, cwd=root, stderr=subprocess.PIPE, text=True) as process:
        while not list((out / "_stats").glob("*.json")) and process.poll() is None:
            signal.sigtimedwait([], 0.02)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate()
    assert process.returncode == 75, errors
    assert "the same command resumes the run" in errors
    assert "Traceback" not in errors
    committed = len(list((out / "_stats").iterdir()))
    assert 1 <= committed < 20
    assert not list((out / "_attempts").iterdir())
    again = scan(root, images, out, "--shard-images", 10, "--max-failed", 40)
    assert again.exit_code == 0
    assert len(read_images(out)) == 200


@pytest.mark.slow
def test_everything_that_is_not_scored_is_counted(
    root: Path, tmp_path: Path, portrait: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last lines, the summary, the page and a dry run count what is left out by kind, and name the folders."""
    folder = tmp_path / "photographs"
    fill(folder, {"a.png": portrait, "._a.png": b"", ".DS_Store": b"", "@eaDir/a.png/x.jpg": b"", "notes.txt": b""})
    (folder / "self.jpg").symlink_to("self.jpg")
    (folder / "bad.jpg").write_bytes(b"\xff\xd8\xff")
    members = [("t.png", portrait), ("t.json", b"{}"), ("._t.png", b"")]
    fill(tmp_path, {"t.tar": make_tar(members) + make_tar([("u.png", portrait)]), "empty.tar": make_tar([])})
    write_photographs(tmp_path / "p.parquet", [portrait, None, None])
    sources = (folder / "a.png", tmp_path / "t.tar", tmp_path / "empty.tar", tmp_path / "p.parquet")
    arguments = (root, folder, tmp_path / "run", *sources, "--bytes-column", "image.bytes")
    planned = {"macos_sidecars": 2, "thumbnails": 1, "not_images": 1, "duplicates": 1, "rows_without_image": 2}
    assert json.loads(scan(*arguments, "--dry-run").stdout)["left_out"] == planned
    done = scan(*arguments)
    assert done.exit_code == 3, done.output
    words = (
        "6 files ignored: 3 macOS sidecars, 1 file of a system's thumbnails, 2 not images by their name; 1 duplicate "
        "(named again); 2 rows without an image; 1 tar or manifest part without an image"
    )
    assert f"not scored: {words}" in done.stderr
    assert "6 images with 4 faces" in done.stderr
    assert f"{tmp_path}/run/errors has a row for each; --retry-failed scores 1 of them again" in done.stderr
    assert f"Report: {tmp_path}/run/report.html" in done.stderr
    summary = json.loads((tmp_path / "run" / "summary.json").read_text(encoding="utf-8"))
    counted = planned | {"macos_sidecars": 3, "not_images": 2, "empty_containers": 1}
    assert summary["left_out"] == counted
    assert words in html.unescape((tmp_path / "run" / "report.html").read_text(encoding="utf-8"))
    assert f"not scored: {words}" in scan(*arguments, "--retry-failed").stderr
    assert json.loads((tmp_path / "run" / "summary.json").read_text(encoding="utf-8"))["left_out"] == counted
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    assert "2 macOS sidecars" in " ".join(scan(*arguments, "--dry-run").stdout.split())


def write_photographs(path: Path, images: list[bytes | None]) -> None:
    """Write a manifest like Hugging Face's: structs of bytes and a path; the last row is a null struct."""
    rows = [*({"bytes": data, "path": f"{n}.jpg"} for n, data in enumerate(images[:-1])), None]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    pq.write_table(pa.table({"image": pa.array(rows, kind)}), path)


def test_an_archive_without_any_image_is_refused(root: Path, tmp_path: Path) -> None:
    """A manifest of nulls is refused by the plan, and a tar of sidecars after reading it."""
    write_photographs(tmp_path / "p.parquet", [None, None])
    refused = scan(root, tmp_path / "p.parquet", tmp_path / "rows", "--bytes-column", "image.bytes")
    assert "no row has an image (2 rows without an image)" in str(refused.exception)
    assert not (tmp_path / "rows").exists()
    fill(tmp_path, {"t.tar": make_tar([("a.json", b"{}"), ("._a.jpg", b"")])})
    refused = scan(root, tmp_path / "t.tar", tmp_path / "tar")
    assert isinstance(refused.exception, UsageError)
    words = "contains no image (2 files ignored: 1 macOS sidecar, 1 not an image by its name"
    assert words in str(refused.exception)
    assert not (tmp_path / "tar" / "_SUCCESS").exists()


@pytest.mark.slow
@pytest.mark.parametrize("out", ["s3://bucket/run", "file:///run", "gs://bucket/run", "https://host/run"])
def test_nothing_is_written_to_a_uri(
    root: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, out: str
) -> None:
    """Scan, compare and the copy of a bundle refuse a URI, and create no folder of that name."""
    monkeypatch.chdir(tmp_path)
    assert scan(root, images, Path("run"), "--max-failed", 2).exit_code == 0
    arguments = [
        ["scan", images, "--out", out, "--bundle", root / "model_repository"],
        ["compare", "run", "run", "--out", out],
        ["bundle", "fetch", root / "model_repository", out],
    ]
    for each in arguments:
        refused = CliRunner().invoke(app, [str(argument) for argument in each])
        assert refused.exit_code == Exit.USAGE or isinstance(refused.exception, UsageError), refused.output
        assert f"{out} is a URI" in " ".join(refused.output.split()) + str(refused.exception)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.slow
@pytest.mark.parametrize("locale", [{}, {"LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}])
def test_any_name_in_any_locale_is_scanned(root: Path, tmp_path: Path, portrait: bytes, locale: dict[str, str]) -> None:
    """Names with invalid UTF-8, emoji and control characters are scanned; the written files are UTF-8."""
    folder = Path(os.fsdecode(os.fsencode(tmp_path / "source") + b"\xe9"))
    folder.mkdir()
    names = ["x\udcff.png", "photo-\U0001f600.png", "esc\x1b[31m.png", "new\nline.png"]
    for name in names:
        (folder / name).write_bytes(portrait)
    (folder / "bad\udce9.jpg").write_bytes(b"\xff\xd8\xff")
    out = tmp_path / "run-\u00e9"
    bundle = ["--bundle", root / "model_repository"]
    commands = [
        ["scan", folder, "--out", out, *bundle],
        ["scan", folder, "--out", out, *bundle, "--retry-failed"],
        ["report", out],
        ["compare", out, out, "--out", tmp_path / "page.html"],
    ]
    ends = [
        subprocess.run([COMMAND, *command], cwd=root, env=os.environ | locale, capture_output=True, check=False)
        for command in commands
    ]
    assert [end.returncode for end in ends] == [3, 3, 0, 0], [end.stderr for end in ends]
    written = [*out.rglob("*.json"), *out.rglob("*.html"), tmp_path / "page.html"]
    assert len(written) >= 5
    for path in written:
        path.read_text(encoding="utf-8")
    assert sum(row.get("reason") is None for row in read_images(out).values()) == len(names)


def test_a_run_folder_that_arrow_cannot_name_is_refused(root: Path, images: Path, tmp_path: Path) -> None:
    """A folder whose name is not UTF-8 is refused before anything is written."""
    out = tmp_path / "run\udcff"
    command = [COMMAND, "scan", images, "--out", out, "--bundle", root / "model_repository"]
    end = subprocess.run(command, cwd=root, capture_output=True, check=False)
    assert end.returncode == 2
    assert b"is not UTF-8" in end.stderr
    assert not out.exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"a": []}'.encode("utf-16"), "it is UTF-16, not UTF-8"),
        ('{"a": []}'.encode("utf-16-le"), "it is UTF-16LE, not UTF-8"),
        ('{\n"\u00e9": []}'.encode("latin-1"), "line 2 contains the byte 0xE9"),
        (b"", "is not a file of face boxes"),
        (b"[]", "is not a file of face boxes"),
        (b"{}", "names no image"),
        (None, "does not exist"),
    ],
)
def test_an_invalid_file_of_faces_is_refused_before_the_run(
    root: Path, images: Path, tmp_path: Path, content: bytes | None, words: str
) -> None:
    """The error states what is wrong with the file, and no run is started."""
    if content is not None:
        (tmp_path / "faces.json").write_bytes(content)
    refused = scan(root, images, tmp_path / "run", "--faces", tmp_path / "faces.json")
    assert refused.exit_code == Exit.USAGE or isinstance(refused.exception, UsageError)
    assert words in " ".join(refused.output.split()) + str(refused.exception)
    assert not (tmp_path / "run").exists()


def test_images_that_faces_do_not_name_are_counted(root: Path, images: Path, tmp_path: Path) -> None:
    """A byte-order mark and CRLF change nothing; images that the file does not name have no face and are counted."""
    boxes = {path.as_uri(): [] for path in sorted(images.iterdir())[:3]}
    text = json.dumps(boxes, indent=1).replace("\n", "\r\n")
    (tmp_path / "faces.json").write_text(text, encoding="utf-8-sig", newline="")
    done = scan(root, images, tmp_path / "run", "--faces", tmp_path / "faces.json", "--max-failed", 14)
    assert done.exit_code == 0, done.output
    assert "11 images that --faces does not name" in done.stderr


@pytest.mark.parametrize(
    ("source", "code", "words"),
    [
        ("missing", 2, "does not exist"),
        ("a.jpg/below", 2, "does not exist"),
        ("loop.tar", 2, "Too many levels of symbolic links"),
        ("nothing.tar", 2, "a broken link"),
        ("pipe.tar", 2, "is not a regular file"),
        ("empty", 2, "contains no image"),
        ("gs://bucket/a", 78, "gcsfs"),
        ("s3://bucket/a", 78, "AWS_ACCESS_KEY_ID"),
    ],
)
def test_a_retry_is_advised_only_where_it_helps(root: Path, tmp_path: Path, source: str, code: int, words: str) -> None:
    """Each source that cannot be read has its exit code and one error line, and no folder is created."""
    fill(tmp_path, {"a.jpg": b"", "empty/notes.txt": b""})
    (tmp_path / "loop.tar").symlink_to("loop.tar")
    (tmp_path / "nothing.tar").symlink_to("missing.tar")
    os.mkfifo(tmp_path / "pipe.tar")
    without = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    end = subprocess.run(
        [COMMAND, "scan", source, "--out", "run", "--bundle", root / "model_repository"],
        cwd=tmp_path,
        env=without | {"AWS_EC2_METADATA_DISABLED": "true", "PYTHONPATH": str(root), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert end.returncode == code, end.stderr
    assert words in end.stderr
    assert "Traceback" not in end.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--index", "2", "--of", "2"], "not below --of 2"),
        (["--uri-column", "a", "--bytes-column", "b"], "exclude each other"),
    ],
)
def test_wrong_usage_is_named(root: Path, images: Path, tmp_path: Path, arguments: list[str], word: str) -> None:
    """Contradictory options are refused before anything is written."""
    refused = scan(root, images, tmp_path / "run", *arguments)
    assert word in str(refused.exception)
