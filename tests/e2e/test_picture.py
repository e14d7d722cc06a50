"""The annotated pictures: one against the one that the README shows, and their folder."""

import hashlib
import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from ingest.reasons import Unscorable
from ingest.sandbox import Sandbox
from scorer.bundle.bundle import Bundle
from scorer.commands.annotate import LIST_FILE, MIN_CAPTION_WIDTH, PictureFolder, draw_picture, encode_picture
from scorer.local_scorer import LocalScorer
from scorer.messages import ImageSource, ScoreRequest, ScoreResult

# A moved box or another colour changes whole lines of pixels by far more; the compression's changes stay below.
SAME_GREY_LEVELS = 40


@pytest.fixture(scope="module")
def result(local_scorer: LocalScorer, portrait: bytes) -> ScoreResult:
    """The portrait's result."""
    image = ImageSource.model_construct(uri=None, data=portrait, sha256=None)
    (result,) = local_scorer.score([ScoreRequest(request_id="a", content_id="astronaut.png", image=image)])
    return result


@pytest.fixture(scope="module")
def small() -> bytes:
    """An image that is drawn quickly."""
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64)).save(buffer, "PNG")
    return buffer.getvalue()


def write(folder: Path, sandbox: Sandbox, result: ScoreResult, data: bytes, *names: str) -> PictureFolder:
    """Write a picture for each name, as one run does; a warning fails."""
    pictures = PictureFolder(folder, None, sandbox, pytest.fail)
    for name in names:
        pictures.add(result.model_copy(update={"content_id": name}), lambda: data)
    assert pictures.written == len(names)
    return pictures


def names_in(folder: Path) -> set[str]:
    """Return the names of the pictures in a folder."""
    return {path.name for path in folder.iterdir()} - {LIST_FILE}


def test_readme_shows_what_is_drawn_today(
    result: ScoreResult, sandbox: Sandbox, starter: Bundle, portrait: bytes, root: Path
) -> None:
    """Box, label and decision are drawn as in the README's picture of the same portrait, which is smaller."""
    shown = Image.open(root / "tests" / "e2e" / "scored_astronaut.webp").convert("RGB")
    encoded = encode_picture(draw_picture(portrait, result, starter.manifest.evaluation, sandbox))
    drawn = Image.open(io.BytesIO(encoded)).resize(shown.size, Image.Resampling.LANCZOS)
    difference = np.asarray(drawn.reduce(4)).astype(int) - np.asarray(shown.reduce(4))
    assert abs(difference).max() < SAME_GREY_LEVELS


def test_an_image_that_cannot_be_decoded_has_no_picture(result: ScoreResult, sandbox: Sandbox, portrait: bytes) -> None:
    """A broken image raises its reason."""
    with pytest.raises(Unscorable):
        draw_picture(portrait[:500], result, None, sandbox)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(stem=st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=255))
def test_any_name_fits_the_file_system(
    tmp_path_factory: pytest.TempPathFactory, result: ScoreResult, sandbox: Sandbox, small: bytes, stem: str
) -> None:
    """For a name with any characters and any length, the picture has a printable name."""
    folder = tmp_path_factory.mktemp("pictures")
    write(folder, sandbox, result, small, f"{stem}.png")
    (name,) = names_in(folder)
    assert name.isprintable()
    assert len(os.fsencode(name)) <= 255


@pytest.mark.parametrize("stem", ["\U0001f600" * 61, "a" * 251, "\x1b" * 200])
def test_long_names_that_become_equal_keep_their_pictures(
    tmp_path: Path, result: ScoreResult, sandbox: Sandbox, small: bytes, stem: str
) -> None:
    """Names that differ at their ends only, and one name in two folders, have a picture each."""
    write(tmp_path, sandbox, result, small, f"one/{stem}.png", f"two/{stem}.png", f"one/{stem}.jpg", f"one/{stem}x.jpg")
    assert len(names_in(tmp_path)) == 4


def test_a_run_removes_what_an_earlier_one_wrote_and_nothing_else(
    tmp_path: Path, result: ScoreResult, sandbox: Sandbox, small: bytes
) -> None:
    """A changed or foreign picture is kept, and so is a file elsewhere that a list names."""
    write(tmp_path, sandbox, result, small, "a.png", "b.png", "c.png")
    mine, changed = tmp_path / "mine.jpg", next(tmp_path.glob("b-*.jpg"))
    outside = tmp_path.parent / f"{tmp_path.name}-outside.jpg"
    for path in (mine, changed, outside):
        path.write_bytes(b"mine")
    digest = hashlib.sha256(b"mine").hexdigest()
    with (tmp_path / LIST_FILE).open("a", encoding="utf-8") as listed:
        for line in ("no json", "[]", '{"name": 1}', json.dumps({"name": f"../{outside.name}", "sha256": digest})):
            listed.write(line + "\n")
    write(tmp_path, sandbox, result, small, "b.png", "d.png")
    assert {name[0] for name in names_in(tmp_path)} == {"b", "d", "m"}
    assert changed.read_bytes() == mine.read_bytes() == outside.read_bytes() == b"mine"
    assert len(names_in(tmp_path)) == 4
    PictureFolder(tmp_path, None, sandbox, pytest.fail)
    assert names_in(tmp_path) == {changed.name, mine.name}


def test_pictures_that_cannot_be_written_are_one_warning(
    tmp_path: Path, result: ScoreResult, sandbox: Sandbox, small: bytes
) -> None:
    """A file that vanished, an image that cannot be drawn and a missing folder do not end the run."""
    warnings: list[str] = []
    pictures = PictureFolder(tmp_path / "drawn", None, sandbox, warnings.append)

    def vanish() -> bytes:
        raise FileNotFoundError(2, "No such file or directory")

    pictures.add(result, vanish)
    pictures.add(result, lambda: small[:60])
    (tmp_path / "drawn").rmdir()
    pictures.add(result, lambda: small)
    assert (pictures.written, pictures.failed, len(warnings)) == (0, 3, 1)
    assert "astronaut.png" in warnings[0]


def test_a_small_picture_has_a_caption_that_can_be_read(local_scorer: LocalScorer, portrait: bytes) -> None:
    """A picture narrower than a line of text gets a wider page, and every line of the caption is inside it."""
    crop = Image.open(io.BytesIO(portrait)).crop((150, 40, 300, 220))
    buffer = io.BytesIO()
    crop.save(buffer, "PNG")
    image = ImageSource.model_construct(uri=None, data=buffer.getvalue(), sha256=None)
    (result,) = local_scorer.score([ScoreRequest(request_id="a", content_id="small.png", image=image)])
    assert result.faces
    page = np.asarray(draw_picture(buffer.getvalue(), result, None, local_scorer.sandbox).convert("L")).astype(int)
    assert page.shape[1] == MIN_CAPTION_WIDTH
    caption = page[crop.height + 1 :]
    assert caption.min() < 100
    assert caption[:, -8:].min() > 200  # nothing runs out of the paper
    assert caption[-8:].min() > 200
