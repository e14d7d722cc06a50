"""`unlensed review`: what is shown and saved, in Debian's Chromium, and what calibration reads of it."""

import json
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page
from typer.testing import CliRunner

from scorer.api.server import BACKLOG, bind, name_url, run_server
from scorer.archive.calibration.labels import LABEL_FILE, Label, read_labels
from scorer.archive.report.reading import ArchiveReader
from scorer.commands.main import app
from scorer.errors import UsageError
from scorer.review.faces import ReviewedFace, list_faces
from scorer.review.label_file import LabelFile
from scorer.review.server import Review, create_app
from scorer.settings import ApiSettings, Settings
from tests.scorer.api.conftest import Client
from tests.scorer.api.test_page import fixture_browser as fixture_browser  # noqa: PLC0414 - a fixture
from tests.scorer.api.test_page import keep, measure_overflow
from tests.scorer.archive.list_plan import make_archive
from tests.scorer.archive.report.written_run import WrittenImage, write_run

pytestmark = pytest.mark.slow

SECRET = "s" * 22


@pytest.fixture(scope="module", name="run")
def fixture_run(root: Path, portrait: bytes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of four photographs, two of which cannot be decoded."""
    folder = tmp_path_factory.mktemp("review")
    images = make_archive(folder / "photographs", portrait, 4)
    arguments = ("scan", images, "--out", folder / "run", "--bundle", root / "model_repository", "--max-failed", 9)
    done = CliRunner().invoke(app, [str(each) for each in arguments])
    assert done.exit_code == 0, done.output
    return folder / "run"


@contextmanager
def reviewing(run: Path, reviewer: str) -> Iterator[Client]:
    """Run the server of a reviewer."""
    settings, stop = ApiSettings(port=0), threading.Event()
    faces = list_faces(run, 100)
    with (
        closing(Review(run, faces, reviewer, ArchiveReader(run, Settings()))) as review,
        closing(bind(settings)) as listener,
    ):
        listener.listen(BACKLOG)
        thread = threading.Thread(target=run_server, args=(create_app(review, SECRET), settings, listener, stop))
        thread.start()
        try:
            yield Client(name_url(settings, listener))
        finally:
            stop.set()
            thread.join()


@pytest.fixture(name="page")
def fixture_page(browser: Browser) -> Iterator[Page]:
    """A new page, in which an error of the script or of its policy fails the test."""
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda line: problems.append(line.text) if line.type == "error" else None)
    yield page
    page.close()
    assert problems == []


def read_lines(run: Path) -> list[tuple[str, str]]:
    """Return reviewer and label of each saved line."""
    rows = [json.loads(line) for line in (run / LABEL_FILE).read_text("utf-8").splitlines()]
    return [(row["reviewer"], row["label"]) for row in rows]


def test_faces_are_labelled_by_keys(run: Path, page: Page) -> None:
    """Each face begins blurred; a key saves at once, and a second reviewer sees a conflict after the own label."""
    (run / LABEL_FILE).unlink(missing_ok=True)
    faces = list_faces(run, 100)
    assert [face.log_likelihood for face in faces] == sorted(face.log_likelihood for face in faces)
    with reviewing(run, "anna") as client:
        page.goto(f"{client.url}/{SECRET}/")
        page.get_by_text(f"Face 1 of {len(faces)}; 0 labelled by anna").wait_for()
        image = page.locator("#face")
        page.wait_for_load_state("networkidle")
        assert image.evaluate("each => each.naturalWidth") > 100
        assert "blurred" in (image.get_attribute("class") or "")
        keep(page, "review-1280")
        page.keyboard.press("b")
        assert "blurred" not in (image.get_attribute("class") or "")
        page.keyboard.press("g")
        page.get_by_text("Saved: generated.").wait_for()
        assert read_lines(run) == [("anna", "generated")]
        page.keyboard.press("r")
        page.get_by_text("Saved: real photograph.").wait_for()
        page.keyboard.press("n")
        page.get_by_text(f"Face 2 of {len(faces)}; 1 labelled by anna").wait_for()
        assert "blurred" in (image.get_attribute("class") or "")
    with reviewing(run, "ben") as client:
        page.set_viewport_size({"width": 390, "height": 800})
        page.goto(f"{client.url}/{SECRET}/")
        page.get_by_text("0 labelled by ben").wait_for()
        assert "anna" not in page.inner_text("#said")
        page.keyboard.press("g")
        page.get_by_text("Conflict. anna: real photograph").wait_for()
        assert measure_overflow(page) == 0
        keep(page, "review-390")
    assert read_lines(run) == [("anna", "generated"), ("anna", "photograph"), ("ben", "generated")]
    (label,) = read_labels(run / LABEL_FILE).to_pylist()
    assert label == {"result_id": faces[0].result_id, "face": faces[0].face_id, "label": "unsure"}


def test_only_the_page_of_this_machine_is_answered(run: Path) -> None:
    """Without the secret path, under another name, or as another site's form, nothing is shown or saved."""
    before = (run / LABEL_FILE).read_bytes() if (run / LABEL_FILE).exists() else b""
    with reviewing(run, "anna") as client:
        assert client.get("/faces").status == 404
        assert client.get(f"/{SECRET}/faces").status == 200
        assert client.get(f"/{SECRET}/faces", host="attacker.example").status == 400
        assert client.get(f"/{SECRET}/faces/0.jpg").body.startswith(b"\xff\xd8")
        assert client.get(f"/{SECRET}/faces/99.jpg").status == 404
        body = b'{"face": 0, "label": "generated"}'
        for kind, sent, status in (
            ("text/plain", body, 415),
            ("application/json", b"{}", 422),
            ("application/json", b'{"face": 99, "label": "generated"}', 422),
            ("application/json", b'{"face": 0, "label": "fine"}', 422),
        ):
            assert client.send("POST", f"/{SECRET}/labels", sent, content_type=kind).status == status
        assert "default-src 'none'" in client.get(f"/{SECRET}/").headers["content-security-policy"]
    assert ((run / LABEL_FILE).read_bytes() if (run / LABEL_FILE).exists() else b"") == before


def test_labels_of_two_reviewers(run: Path, tmp_path: Path) -> None:
    """The last label of a reviewer counts, agreement is kept, a conflict is unsure, and without reviewers refused."""
    first, *_ = list_faces(run, 1)
    faces = [ReviewedFace(**{**first.model_dump(), "face_id": name}) for name in ("0", "1", "2")]
    labels = LabelFile(tmp_path)
    for face, label, reviewer in (
        (faces[0], Label.GENERATED, "anna"),
        (faces[0], Label.PHOTOGRAPH, "anna"),
        (faces[1], Label.GENERATED, "anna"),
        (faces[1], Label.GENERATED, "ben"),
        (faces[2], Label.GENERATED, "anna"),
        (faces[2], Label.PHOTOGRAPH, "ben"),
    ):
        labels.append(face, label, reviewer)
    found = {row["face"]: row["label"] for row in read_labels(tmp_path / LABEL_FILE).to_pylist()}
    assert found == {"0": "photograph", "1": "generated", "2": "unsure"}
    assert labels.read()[first.result_id, "2"] == {"anna": "generated", "ben": "photograph"}
    path = tmp_path / "nobody.csv"
    path.write_text("result_id,label\nr,generated\nr,photograph\n", encoding="utf-8")
    with pytest.raises(UsageError, match="labelled generated above and photograph here"):
        read_labels(path)


def test_tracks_of_clips_are_not_shown(tmp_path: Path) -> None:
    """A reviewer gets the faces of photographs: those of a clip cannot be cut from its file."""
    stated = {"decision": "flag", "reason_codes": ["stated_generated"]}
    image = WrittenImage("a.jpg", (0.5, 0.2), facts={"result_id": "a", **stated})
    clip = WrittenImage("b.mp4", (0.3,), facts={"result_id": "b", "clip_frames": 5})
    run = write_run(tmp_path, [[image, clip]])
    assert [face.content_id for face in list_faces(run, 9)] == ["a.jpg", "a.jpg"]
    assert list_faces(run, 1)[0].model_dump(include={"face_decision", *stated}) == {
        "face_decision": "pass",
        "decision": "flag",
        "reason_codes": ("stated_generated",),
    }
