"""The heads that rank EXIF tags on their way into a bundle: their skill, and when ranks contradict each other."""

from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from scorer.bundle.exif_heads import NO_LIMIT, rank_among
from tests.training.evaluation.conftest import make_faces
from training.exif_heads import CONTRADICTION_RATE, choose_photographs, describe_heads
from training.recipes import LossRule, starter


def draw(photographs: int, noise: float, seed: int) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Return the features and tags of photographs, and how two heads are described: of the tag with noise, of noise."""
    rng = np.random.default_rng(seed)
    tags = rng.integers(1, 9, (photographs, 2)).astype(float)
    features = rng.normal(size=(photographs, 2)) * [noise, 1] + tags * [1, 0]
    return features, tags, describe_heads(np.eye(2), features, tags, (np.arange(photographs) % 10).astype(str))


@given(st.integers(368, 700), st.floats(0, 8), st.integers(0, 2**32 - 1))
def test_few_photographs_contradict_their_own_tags(photographs: int, noise: float, seed: int) -> None:
    """Whatever a head is worth, at most 1 % of the photographs that made the rule lie beyond its limit."""
    features, tags, heads = draw(photographs, noise, seed)
    for row in (0, 1):
        predicted, stated = (
            rank_among(features[:, row], heads["scores"][row]),
            rank_among(tags[:, row], heads["tags"][row]),
        )
        assert np.mean(np.abs(predicted - stated) > heads["limits"][row] + 1e-9) <= CONTRADICTION_RATE


def test_skill_tells_a_head_from_chance_and_few_photographs_make_no_rule() -> None:
    """The interval of a head that sees the tag lies above 0.5; under 368 photographs nothing can contradict."""
    _, _, heads = draw(367, 1.0, 7)
    assert heads["skill"][0, 1] > 0.8
    assert heads["skill"][1, 1] < 0.5 < heads["skill"][1, 2]
    assert heads["photographs"].tolist() == [367] * 2
    assert heads["limits"].tolist() == [NO_LIMIT] * 2
    nothing = describe_heads(np.eye(2), np.ones((9, 2)), np.full((9, 2), np.nan), np.full(9, "a"))
    assert (nothing["skill"].tolist(), nothing["photographs"].tolist()) == ([[0.5, 0, 1]] * 2, [0, 0])


def test_one_face_of_each_tagged_photograph_counts() -> None:
    """Faces of one photograph share their tags; without different tags, or a ranking task, nothing is measured."""
    faces, recipe = make_faces(24, 0), starter()
    tags = np.where(np.arange(24) < 4, np.nan, np.arange(24) // 2)[:, None] * np.ones(4)
    tagged = replace(faces, tags=tags)
    assert choose_photographs(tagged, recipe).tolist() == list(range(4, 24, 2))
    assert not len(choose_photographs(faces, recipe))
    assert not len(choose_photographs(tagged, replace(recipe, losses=LossRule(ranking_weight=0.0))))
