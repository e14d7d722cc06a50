"""Validation: the selection of a checkpoint, and the control of resampling."""

import dataclasses
import math
from collections.abc import Callable

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score
from torch import nn

from ingest.spec import PreprocessSpec
from tests.training.pretext.tiny_training import make_faces, make_recipe
from training.data.manipulations import make_sampler
from training.data.shards import WIDE_SIZE, FaceSet
from training.pretext.backbone import Normalise
from training.pretext.batches import Batch
from training.pretext.network import PretextNetwork
from training.pretext.ranking import manipulation_loss
from training.pretext.validation import (
    CONTROL,
    check_control,
    compute_auc,
    figure_of_merit,
    make_validation_batches,
    make_validation_sampler,
    predict,
    ranking_accuracy,
    resample_again,
    select_validation_faces,
    validate,
)
from training.recipes import PAPER_FEATURES, AugmentRule, LossRule, starter

FACES, STEPS = 16, 40
RECIPE = make_recipe(seed=1, augment=dataclasses.replace(starter().augment, warps=2))


class FilterBank(nn.Module):
    """Eight 3x3 filters and their mean responses, which depend on sharpness and brightness."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            Normalise(PreprocessSpec()), nn.Conv2d(3, 8, 3, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )
        self.widen = nn.Linear(8, PAPER_FEATURES)

    def forward(self, crops_NHWC: torch.Tensor) -> torch.Tensor:
        """Map [N, S, S, 3] to [N, 768]."""
        features: torch.Tensor = self.widen(self.layers(crops_NHWC))
        return features


@pytest.fixture(scope="module")
def faces() -> FaceSet:
    """Noise pictures with different contrast and sharpness."""
    rng = np.random.default_rng(0)
    pictures = []
    for _ in range(FACES):
        noise = rng.normal(0, rng.uniform(30, 50), (WIDE_SIZE, WIDE_SIZE, 3))
        pictures.append(np.clip(cv2.GaussianBlur(noise, (0, 0), rng.uniform(0.7, 3.0)) + 128, 0, 255).astype(np.uint8))
    return dataclasses.replace(make_faces(FACES), wide=np.stack(pictures))


def train_head(batches: list[Batch]) -> PretextNetwork:
    """Return a tiny network with a trained manipulation head."""
    torch.manual_seed(2)
    network = PretextNetwork(FilterBank(), PAPER_FEATURES, centred_heads=True).train()
    optimiser = torch.optim.Adam(network.parameters(), lr=3e-3)
    crops, labels = (torch.cat([getattr(batch, name) for batch in batches]) for name in ("crops", "manipulated"))
    for _ in range(STEPS):
        optimiser.zero_grad()
        manipulation_loss(network(crops)[1], labels).backward()
        optimiser.step()
    return network


@pytest.mark.slow
def test_control_detects_a_head_that_learned_resampling(faces: FaceSet) -> None:
    """A head with the release's confound causes a warning, a sound one does not."""
    batches = make_validation_batches(faces, RECIPE)
    untouched = [batch for batch in batches if (batch.manipulated == 0).all()]

    def alter(change: Callable[[np.ndarray], np.ndarray]) -> list[Batch]:
        changed = [change(batch.crops.numpy().copy()) for batch in untouched]
        return [
            dataclasses.replace(batch, crops=torch.from_numpy(crops), manipulated=torch.ones(len(crops)))
            for crops, batch in zip(changed, untouched, strict=True)
        ]

    def darken(crops: np.ndarray) -> np.ndarray:
        crops[:, 140:190, 70:150] //= 2
        return crops

    sound, confounded = untouched + alter(darken), untouched + alter(resample_again)
    held_out = make_validation_batches(faces, dataclasses.replace(RECIPE, seed=2))
    good, bad = validate(train_head(sound), held_out), validate(train_head(confounded), held_out)
    assert check_control(good) is None
    assert "may have learned resampling instead" in check_control(bad)
    assert bad[CONTROL] > 0.9


def test_control_counts_both_directions() -> None:
    """An AUC beyond either bound causes a warning; one at the bound does not."""
    assert check_control({CONTROL: 0.24}) is not None
    assert check_control({CONTROL: 0.76}) is not None
    assert check_control({CONTROL: 0.75}) is None
    assert check_control({CONTROL: 0.5}) is None


@settings(max_examples=30)
@given(seed=st.integers(0, 2**32 - 1), size=st.integers(1, 30))
def test_auc_is_scikit_learn_s(seed: int, size: int) -> None:
    """The AUC equals scikit-learn's ROC AUC, including ties."""
    rng = np.random.default_rng(seed)
    low, high = rng.integers(0, 6, size).astype(float), rng.integers(1, 8, size).astype(float)
    labels = np.repeat([0, 1], size)
    expected = roc_auc_score(labels, np.concatenate([low, high]))
    assert compute_auc(torch.from_numpy(low), torch.from_numpy(high)) == pytest.approx(expected)


def test_validation_uses_the_same_faces_each_time(faces: FaceSet) -> None:
    """Each face is used as served, untouched and manipulated, the same on every call."""
    once, again = (make_validation_batches(faces, RECIPE) for _ in range(2))
    assert all(torch.equal(one.crops, two.crops) for one, two in zip(once, again, strict=True))
    served, untouched, altered = once
    assert np.array_equal(served.crops.numpy(), faces.crops)
    torch.testing.assert_close(served.tags, torch.from_numpy(faces.tags).float())
    assert served.manipulated.isnan().all()
    assert untouched.manipulated.tolist() == [0.0] * FACES
    assert altered.manipulated.tolist() == [1.0] * FACES
    assert untouched.tags.isnan().all()
    assert altered.tags.isnan().all()


def test_predictions_are_of_the_faces_in_order(faces: FaceSet) -> None:
    """Each kind of crop has the order of the faces, over several batches."""
    batches = [batch for part in range(2) for batch in make_validation_batches(faces.select(rows(part)), RECIPE)]
    torch.manual_seed(2)
    network = PretextNetwork(FilterBank(), PAPER_FEATURES, centred_heads=False)
    found = predict(network, batches)
    for name, kind in (("served", 0), ("untouched", 1), ("altered", 2)):
        expected = predict(network, batches[kind::3])
        torch.testing.assert_close(found.logits[getattr(found, name)], expected.logits)
    torch.testing.assert_close(found.tags[found.served], torch.from_numpy(faces.tags).float())


def rows(part: int) -> np.ndarray:
    """Return the first or the second half of the faces' rows."""
    return np.arange(FACES // 2) + part * FACES // 2


def test_validation_has_other_warps_than_training() -> None:
    """No warp of validation is one of training, whose warps differ from one another."""
    recipe = make_recipe(augment=AugmentRule(warps=3))
    trained = make_sampler(recipe.preprocess.size, WIDE_SIZE, recipe.augment, recipe.seed)
    warps = (*trained.shifts, *make_validation_sampler(recipe).shifts)
    assert len({warp.tobytes() for warp in warps}) == 6


def test_untagged_faces_are_few() -> None:
    """All tagged faces are selected, up to a limit, and at most a hundred of the others."""
    faces = make_faces(3)
    many = faces.select(np.zeros(400, dtype=int))
    many.tags[:150] = np.nan
    picked = select_validation_faces(many, seed=0)
    assert int(np.isnan(picked.tags).all(axis=1).sum()) == 100
    assert len(picked) == 350


def test_merit_counts_what_the_recipe_trains() -> None:
    """Only trained tasks count, without missing tags; without any it is NaN."""
    figures = {"f_number": 0.6, "exposure_time_s": 0.8, "focal_length_mm": math.nan, "iso": 0.7, "manipulation": 0.9}
    figures[CONTROL] = 0.0
    assert figure_of_merit(figures, LossRule()) == pytest.approx(0.75)
    assert figure_of_merit(figures, LossRule(manipulation_weight=0)) == pytest.approx(0.7)
    assert figure_of_merit(figures, LossRule(ranking_weight=0)) == pytest.approx(0.9)
    assert math.isnan(figure_of_merit(dict.fromkeys(figures, math.nan), LossRule()))


def test_ranking_accuracy_ignores_ties_and_missing_tags() -> None:
    """Only pairs with two different values count; without such pairs the accuracy is NaN."""
    nan = float("nan")
    tags = torch.tensor([[1.0, 1, nan, 1], [2.0, 1, 5, 2], [3.0, 1, nan, 3]])
    scores = torch.tensor([[1.0, 0, 0, 3], [2.0, 1, 0, 2], [3.0, 2, 0, 1]])
    accuracy = ranking_accuracy(scores, tags)
    assert accuracy["f_number"] == 1
    assert accuracy["iso"] == 0
    assert math.isnan(accuracy["exposure_time_s"])
    assert math.isnan(accuracy["focal_length_mm"])
