"""The annotated picture, against the one that the README shows."""

from pathlib import Path

import numpy as np
from PIL import Image

from scorer.engine import LocalScorer
from scorer.messages import ImageSource, ScoreRequest
from scorer.picture import draw_picture

# A moved box or another colour changes whole lines of pixels by far more; JPEG's rounding stays below.
SAME_GREY_LEVELS = 40


def test_readme_shows_what_is_drawn_today(
    local_scorer: LocalScorer, portrait: bytes, root: Path, tmp_path: Path
) -> None:
    """Box, label and decision are drawn as in the README's picture of the same portrait."""
    image = ImageSource.model_construct(uri=None, data=portrait, sha256=None, media_type=None)
    (result,) = local_scorer.score([ScoreRequest(request_id="a", content_id="astronaut.png", image=image)])
    path = draw_picture(portrait, result, tmp_path)
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
    assert draw_picture(portrait[:500], result, tmp_path) is None
    assert not list(tmp_path.iterdir())
