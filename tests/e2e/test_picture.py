"""The annotated picture, against the one that the README shows."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from scorer.engine import LocalScorer
from scorer.messages import ImageSource, ScoreRequest
from scorer.picture import MIN_CAPTION_WIDTH, draw_picture

# A moved box or another colour changes whole lines of pixels by far more; JPEG's rounding stays below.
SAME_GREY_LEVELS = 40


def test_readme_shows_what_is_drawn_today(
    local_scorer: LocalScorer, portrait: bytes, root: Path, tmp_path: Path
) -> None:
    """Box, label and decision are drawn as in the README's picture of the same portrait."""
    image = ImageSource.model_construct(uri=None, data=portrait, sha256=None, media_type=None)
    (result,) = local_scorer.score([ScoreRequest(request_id="a", content_id="astronaut.png", image=image)])
    path = draw_picture(portrait, result, local_scorer.bundle.manifest.evaluation, tmp_path)
    assert path is not None
    drawn, shown = (
        np.asarray(Image.open(file)).astype(int) for file in (path, root / "tests" / "e2e" / "scored_astronaut.jpg")
    )
    assert drawn.shape == shown.shape
    assert abs(drawn - shown).max() < SAME_GREY_LEVELS


def test_an_image_that_cannot_be_decoded_has_no_picture(
    local_scorer: LocalScorer, portrait: bytes, tmp_path: Path
) -> None:
    """A broken image leaves no file behind and raises nothing."""
    image = ImageSource.model_construct(uri=None, data=portrait[:500], sha256=None, media_type=None)
    (result,) = local_scorer.score([ScoreRequest(request_id="a", content_id="a.png", image=image)])
    assert draw_picture(portrait[:500], result, None, tmp_path) is None
    assert not list(tmp_path.iterdir())


def test_a_small_picture_has_a_caption_that_can_be_read(
    local_scorer: LocalScorer, portrait: bytes, tmp_path: Path
) -> None:
    """A picture narrower than a line of text is set on wider paper, and every line of the caption lies inside it."""
    crop = Image.open(io.BytesIO(portrait)).crop((150, 40, 300, 220))
    buffer = io.BytesIO()
    crop.save(buffer, "PNG")
    image = ImageSource.model_construct(uri=None, data=buffer.getvalue(), sha256=None, media_type=None)
    (result,) = local_scorer.score([ScoreRequest(request_id="a", content_id="small.png", image=image)])
    assert result.faces
    path = draw_picture(buffer.getvalue(), result, None, tmp_path)
    assert path is not None
    page = np.asarray(Image.open(path).convert("L")).astype(int)
    assert page.shape[1] == MIN_CAPTION_WIDTH
    caption = page[crop.height + 1 :]
    assert caption.min() < 100
    assert caption[:, -8:].min() > 200  # nothing runs out of the paper
    assert caption[-8:].min() > 200
