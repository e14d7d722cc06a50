"""The heads that rank EXIF tags on their way into a bundle: weights, skill, and when ranks contradict each other."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scorer.bundle.exif_heads import NO_LIMIT, rank_among
from scorer.decide import photographs_needed
from tests.training.evaluation.conftest import make_faces
from training import exif_heads
from training.exif_heads import CONTRADICTION_RATE, choose_photographs, describe_heads


def draw(photographs: int, noise: float, seed: int) -> dict[str, np.ndarray]:
    """Return what `describe_heads` measures of a head whose prediction is the tag and noise, and of one of noise only."""
    rng = np.random.default_rng(seed)
    tags = rng.integers(1, 9, (photographs, 2)).astype(float)
    features = np.stack([tags[:, 0] + noise * rng.normal(size=photographs), rng.normal(size=photographs)], axis=1)
    return describe_heads(np.eye(2), features, tags, (np.arange(photographs) % 10).astype(str)) | {
        "features": features,
        "stated": tags,
    }


@given(st.integers(368, 700), st.floats(0, 8), st.integers(0, 2**32 - 1))
def test_few_photographs_contradict_their_own_tags(photographs: int, noise: float, seed: int) -> None:
    """Whatever the head is worth, at most 1 % of the photographs that made the rule lie beyond its limit."""
    measured = draw(photographs, noise, seed)
    for row, limit in enumerate(measured["limits"]):
        ranks = [
            rank_among(measured[a][:, row], measured[b][row]) for a, b in (("features", "scores"), ("stated", "tags"))
        ]
        assert np.mean(np.abs(ranks[0] - ranks[1]) > limit) <= CONTRADICTION_RATE


def test_skill_tells_a_head_from_chance() -> None:
    """The interval of a head that sees the tag lies above 0.5, that of one that sees noise does not."""
    measured = draw(400, 1.0, 7)
    assert measured["skill"][0, 1] > 0.8
    assert measured["skill"][1, 1] < 0.5 < measured["skill"][1, 2]
    assert measured["counts"].tolist() == [[400, 10]] * 2


def test_too_few_photographs_make_no_rule() -> None:
    """Below the photographs that a rate of 1 % needs nothing contradicts; a tag that nobody states has no skill."""
    assert photographs_needed(CONTRADICTION_RATE) == 368
    assert draw(367, 1.0, 7)["limits"].tolist() == [NO_LIMIT] * 2
    without = describe_heads(np.eye(2), np.ones((9, 2)), np.full((9, 2), np.nan), np.full(9, "a"))
    assert without["skill"].tolist() == [[0.5, 0, 1]] * 2
    assert not without["counts"].any()


def test_one_face_of_each_tagged_photograph_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Faces of one photograph share their tags; photographs without a tag are left out, and the number is bounded."""
    faces = make_faces(24, 0)
    tags = np.where(np.arange(24)[:, None] < 4, np.nan, faces.tags)
    assert choose_photographs(replace(faces, tags=tags), 1).tolist() == list(range(4, 24, 2))
    monkeypatch.setattr(exif_heads, "MAX_PHOTOGRAPHS", 3)
    assert len(choose_photographs(faces, 1)) == 3
