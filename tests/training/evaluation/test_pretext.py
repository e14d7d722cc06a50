"""The accuracies of the pretext tasks and their intervals."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from ingest.exif import TAG_NAMES
from tests.training.pretext.tiny_training import make_faces
from training.evaluation.pretext import measure_balanced_accuracy, measure_ordering, measure_pretext
from training.pretext.checkpoints import save_checkpoint
from training.pretext.network import MANIPULATION, build_network
from training.pretext.validation import pair_indices, ranking_accuracy
from training.recipes import LossRule, starter


@given(st.integers(2, 30), st.integers(0, 2**32 - 1))
def test_orderings_count_as_in_training(faces: int, seed: int) -> None:
    """The share is the accuracy by which training selects its epoch."""
    rng = np.random.default_rng(seed)
    scores, tags = rng.normal(size=faces), rng.integers(0, 4, faces).astype(float)
    rate = measure_ordering(scores, tags, np.arange(faces))
    columns = [torch.from_numpy(np.stack([values] * len(TAG_NAMES), axis=1)) for values in (scores, tags)]
    expected = ranking_accuracy(*columns)[TAG_NAMES[0]]
    if rate is None:
        assert np.isnan(expected)
        assert len(np.unique(tags)) == 1
    else:
        assert rate.value == pytest.approx(expected)
        assert 0 <= rate.low <= rate.high <= 1
        assert len(pair_indices(faces)[0]) >= 1


def test_two_tags_make_an_auc() -> None:
    """With two values of a tag, the share of correctly ordered pairs is scikit-learn's ROC AUC."""
    rng = np.random.default_rng(3)
    tags = (np.arange(40) % 2).astype(float)
    scores = rng.normal(size=40) + tags
    rate = measure_ordering(scores, tags, np.arange(40))
    assert rate.value == pytest.approx(roc_auc_score(tags, scores))
    assert rate.low < rate.value < rate.high


def test_intervals_resample_whole_photographs() -> None:
    """Ten faces of each photograph give the same interval as one face of each."""
    right = np.random.default_rng(5).random(40) < 0.6
    alone = measure_balanced_accuracy(right, right, np.arange(40))
    together = measure_balanced_accuracy(np.repeat(right, 10), np.repeat(right, 10), np.repeat(np.arange(40), 10))
    assert together.value == pytest.approx(alone.value)
    assert together.high - together.low == pytest.approx(alone.high - alone.low, abs=0.02)


def test_only_trained_tasks_are_measured(tmp_path: Path) -> None:
    """Only the tasks that the recipe trains are measured, each with its number of faces."""
    both = replace(starter(), augment=replace(starter().augment, warps=1))
    recipe = replace(both, losses=LossRule(ranking_weight=0.0))
    network = build_network(recipe)
    save_checkpoint(tmp_path / "best.safetensors", network, recipe, {})
    faces = make_faces(6)
    assert set(measure_pretext(tmp_path / "best.safetensors", faces, recipe)) == {MANIPULATION}
    rates = measure_pretext(tmp_path / "best.safetensors", faces, both)
    assert set(rates) - {MANIPULATION} <= set(TAG_NAMES)
    assert rates[MANIPULATION].count == len(faces)
