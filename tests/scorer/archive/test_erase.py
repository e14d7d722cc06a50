"""`unlensed erase`: nothing of an image is left, and other rows are unchanged."""

import io
import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from scorer.archive import erase as erasing
from scorer.archive.calibration.labels import LABEL_FILE
from scorer.archive.claims import Claim
from scorer.archive.marks import read_marks
from scorer.commands.main import app
from scorer.errors import CannotCommit, UsageError
from tests.scorer.archive.list_plan import make_archive
from tests.scorer.archive.real_scan import check_published

pytestmark = pytest.mark.usefixtures("default_settings")
CAMERA = "Unforgettable 9000"


def run(*arguments: object) -> Result:
    """Run the command in this process."""
    return CliRunner().invoke(app, [str(each) for each in arguments])


@pytest.fixture
def scanned(finished: Path, tmp_path: Path) -> Path:
    """A copy of the run."""
    (tmp_path / "photographs").symlink_to(finished.parent / "photographs")
    return shutil.copytree(finished, tmp_path / "run")


@pytest.fixture(scope="module")
def finished(root: Path, portrait: bytes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of fourteen photographs in four shards, two broken, one with its own camera."""
    tmp_path = tmp_path_factory.mktemp("erase")
    images = make_archive(tmp_path / "photographs", portrait, 14)
    exif = Image.Exif()
    exif[0x0110] = CAMERA
    buffer = io.BytesIO()
    Image.open(images / "00005.jpg").save(buffer, "JPEG", quality=90, exif=exif)
    (images / "00005.jpg").write_bytes(buffer.getvalue())
    options = ("--bundle", root / "model_repository", "--shard-images", 4, "--keep-features", "--max-failed", 9)
    done = run("scan", images, images / "00000.jpg", "--out", tmp_path / "run", *options)
    assert done.exit_code == 0, done.output
    return tmp_path / "run"


def name_image(run_folder: Path, number: int) -> str:
    """Return the content_id of a photograph."""
    return (run_folder.parent / "photographs" / f"{number:05d}.jpg").resolve().as_uri()


def erase(folder: Path, *ids: str) -> Result:
    """Run the command for these ids."""
    return run("erase", folder, *(word for each in ids for word in ("--content-id", each)))


def read_rows(folder: Path, kind: str) -> list[dict[str, Any]]:
    """Return the rows of a kind, sorted."""
    tables = [pq.ParquetFile(path).read() for path in sorted((folder / kind).glob("*.parquet"))]
    rows = [row for table in tables for row in table.to_pylist()]
    return sorted(rows, key=lambda row: (row["shard"], row["position"], row.get("face_id") or ""))


def list_words(folder: Path) -> str:
    """Return all text in the files of a run, with the strings of Parquet files."""
    words = []
    for path in folder.rglob("*"):
        if path.is_file():
            words += [path.name, path.read_bytes().decode("latin-1")]
            if path.suffix == ".parquet":
                table = pq.ParquetFile(path).read()
                words.append(str(table.schema.metadata))
                for column in table.columns:
                    for chunk in column.chunks:
                        words.append(json.dumps(chunk.to_pylist(), default=str))
                        if pa.types.is_dictionary(chunk.type):
                            words.append(json.dumps(chunk.dictionary.to_pylist()))
    return "\n".join(words)


def test_nothing_is_left_and_the_rest_is_unchanged(scanned: Path) -> None:
    """After erasing images, a shard and a source, marks, report and other rows are right."""
    ids = [name_image(scanned, number) for number in (0, 3, 4, 5, 6, 7)]
    before = {kind: read_rows(scanned, kind) for kind in ("results", "errors", "features")}
    gone = {
        (row["shard"], row["position"])
        for kind in ("results", "errors")
        for row in before[kind]
        if row["content_id"] in ids
    }
    assert CAMERA in list_words(scanned)
    assert all(each in list_words(scanned) for each in ids)
    labelled = [{"result_id": row["result_id"], "label": "unsure"} for row in before["results"]]
    lines = [json.dumps(row) + "\n" for row in labelled]
    (scanned / LABEL_FILE).write_text("".join(lines), encoding="utf-8")
    done = erase(scanned, *ids)
    assert done.exit_code == 0, (done.output, done.exception)
    kept = [
        line for line, row in zip(lines, before["results"], strict=True) if (row["shard"], row["position"]) not in gone
    ]
    assert 0 < len(kept) < len(lines)
    assert (scanned / LABEL_FILE).read_text("utf-8") == "".join(kept)
    words = list_words(scanned)
    assert [each for each in (*ids, *(each.removeprefix("file://") for each in ids), CAMERA) if each in words] == []
    for kind, rows in before.items():
        assert read_rows(scanned, kind) == [row for row in rows if (row["shard"], row["position"]) not in gone]
    check_published(scanned)
    summary = json.loads((scanned / "summary.json").read_text())
    assert (summary["images"], summary["failed"], summary["complete"]) == (14 - len(gone), 1, True)
    assert sum(mark.images for mark in read_marks(scanned)) == 14 - len(gone)
    assert (scanned / "_SUCCESS").exists()
    assert not any((scanned / "_attempts").iterdir())
    again = erase(scanned, ids[0])
    assert again.exit_code == 3
    assert "erased before" in " ".join(again.stderr.split())


@pytest.mark.parametrize("stop_at", range(4))
def test_a_stopped_erasure_is_resumed(scanned: Path, monkeypatch: pytest.MonkeyPatch, stop_at: int) -> None:
    """Wherever it stops, each shard is whole, and the same command does the rest."""
    ids = [name_image(scanned, number) for number in (1, 3, 5, 9)]
    calls = []

    def fail(*arguments: Any) -> None:  # noqa: ANN401 - passed on
        calls.append(arguments)
        if len(calls) > stop_at:
            raise OSError(28, "No space left on device")
        publish(*arguments)

    publish = erasing.publish_json
    with monkeypatch.context() as patch:
        patch.setattr(erasing, "publish_json", fail)
        if stop_at < 3:
            assert isinstance(erase(scanned, *ids).exception, OSError)
            check_published(scanned)
            assert not (scanned / "report.html").exists()
    done = erase(scanned, *ids)
    assert done.exit_code == 0, (done.output, done.exception)
    assert [each for each in ids if each in list_words(scanned)] == []
    assert (scanned / "report.html").exists()


def test_unfinished_and_busy_runs_are_refused(scanned: Path) -> None:
    """An unfinished run, and a shard that another process has, are not changed."""
    image = name_image(scanned, 1)
    claim = Claim.acquire(scanned / "_attempts", 0)
    assert claim
    refused = erase(scanned, image)
    assert isinstance(refused.exception, CannotCommit)
    claim.finish()
    assert erase(scanned, image).exit_code == 0
    (scanned / "_stats" / "00001.json").unlink()
    assert isinstance(erase(scanned, image).exception, UsageError)
