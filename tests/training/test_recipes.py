"""The differences between the paper and the authors' release, and the ablations."""

import dataclasses
import json
import math
from pathlib import Path

import pytest
import torch

from ingest.spec import PreprocessSpec
from training.pretext.optimiser import make_optimiser, rate_factor
from training.recipes import RECIPES, MixtureShape, Recipe, exif_only, face_only, find_recipe, paper, released, starter


def test_thurstone_scale_and_ties() -> None:
    """Eq. 2 divides by sqrt(2), the release multiplies by 2; ties are 1 or 0.5."""
    ours, theirs = paper().losses.pairs, released().losses.pairs
    assert (ours.thurstone_scale, ours.tie_target) == (pytest.approx(1 / math.sqrt(2)), 1.0)
    assert (theirs.thurstone_scale, theirs.tie_target) == (2.0, 0.5)
    # erf(d / (sqrt(2) * 0.5)) is 2 Phi(2 d) - 1
    gap = torch.linspace(-2, 2, 9, dtype=torch.float64)
    released_p = 0.5 * (1 + torch.erf(gap / (math.sqrt(2) * 0.5)))
    torch.testing.assert_close(torch.special.ndtr(gap * theirs.thurstone_scale), released_p)


def test_optimisers() -> None:
    """The paper decays decoupled (AdamW), the release coupled, with other betas."""
    network = torch.nn.Linear(2, 2)
    ours, theirs = (make_optimiser(network, recipe().optimiser) for recipe in (paper, released))
    assert type(ours) is torch.optim.AdamW
    assert type(theirs) is torch.optim.Adam
    assert [group["weight_decay"] for optimiser in (ours, theirs) for group in optimiser.param_groups] == [1e-4, 1e-4]
    assert ours.param_groups[0]["betas"] == (0.9, 0.999)
    assert (theirs.param_groups[0]["betas"], theirs.param_groups[0]["eps"]) == ((0.9, 0.98), 1e-6)


def test_schedules() -> None:
    """20 epochs of batches of 256 from 1e-5; the last rate is 0, or 1e-5 in the release."""
    for recipe in (paper(), released()):
        assert (recipe.batch_size, recipe.epochs) == (256, 20)
        assert recipe.optimiser.head_rate == recipe.optimiser.backbone_rate == 1e-5
    ours, theirs = paper().optimiser, released().optimiser
    assert theirs.rate_floor == 1e-7
    assert rate_factor(ours, 2000, 100, 20) == pytest.approx(0)
    assert rate_factor(theirs, 1000, 100, 20) == pytest.approx(0)
    assert rate_factor(theirs, 2000, 100, 20) == pytest.approx(1)


def test_the_rate_rises_in_the_first_steps() -> None:
    """The starter's rate rises for 50 steps; other recipes start at the highest."""
    rule = starter().optimiser
    assert [rate_factor(rule, step, 1000, 10) for step in (0, 24)] == pytest.approx([0.02, 0.5], rel=1e-3)
    plain = dataclasses.replace(rule, warmup_steps=0)
    assert rate_factor(rule, 700, 100, 10) == rate_factor(plain, 700, 100, 10)
    assert all(recipe().optimiser.warmup_steps == 0 for recipe in (paper, released, exif_only, face_only))


def test_additions_are_the_starter_s_only() -> None:
    """Classifiers, balance, head, copies and clipping are the starter's only."""

    def list_additions(recipe: Recipe) -> list[object]:
        losses = recipe.losses
        return [
            losses.camera_weight,
            losses.kind_weight,
            recipe.balance_sources,
            recipe.head,
            recipe.mixture.copies,
            recipe.optimiser.clip_norm,
        ]

    for recipe in (paper(), released(), exif_only(), face_only()):
        assert not any(list_additions(recipe))
        assert recipe.output_size == recipe.feature_size == 768
    assert all(list_additions(starter()))
    assert (starter().feature_size, starter().output_size) == (256, 4)


def test_sampling_and_manipulations() -> None:
    """The release rotates mouths, flips one eye and warps more."""
    ours, theirs = paper().augment, released().augment
    assert ours.manipulated_share == theirs.manipulated_share == 0.5
    assert (ours.vertical_mouth, ours.eyes) == ("mirror", "any")
    assert (theirs.vertical_mouth, theirs.eyes, theirs.affine_scale) == ("half_turn", "one", (0.04, 0.05))
    assert (paper().losses.rank_manipulated, released().losses.rank_manipulated) == (False, True)


def test_weights_of_the_losses() -> None:
    """Five tasks have equal weights, except in `starter`."""
    for recipe in (paper(), released()):
        assert (recipe.losses.ranking_weight, recipe.losses.manipulation_weight) == (1.0, 1.0)
    assert (exif_only().losses.ranking_weight, face_only().losses.manipulation_weight) == (1.0, 1.0)
    assert (starter().losses.ranking_weight, starter().losses.manipulation_weight) == (1.0, 4.0)


def test_augmentation_is_the_starter_s_only() -> None:
    """Only `starter` rotates, zooms, shifts, mirrors, copies or processes."""

    def list_extents(recipe: Recipe) -> list[float]:
        rule = recipe.augment
        extents = [rule.rotation_deg, rule.zoom, rule.shift, rule.mirror]
        return [*extents, rule.copiers is not None, rule.processing, rule.processed_ranking]

    for recipe in (paper(), released(), exif_only(), face_only()):
        assert not any(list_extents(recipe))
    assert all(list_extents(starter()))


def test_mixtures_and_thresholds() -> None:
    """Full covariances, 8 or 12 components, thresholds of fitted faces."""
    assert paper().mixture.shapes == (MixtureShape("full", 8),)
    assert released().mixture.shapes == (MixtureShape("full", 12),)
    for rule in (paper().mixture, released().mixture):
        assert (rule.variance_added, rule.variance_floor, rule.seed) == (1e-6, 0.0, 2024)
    assert paper().threshold_on == released().threshold_on == "train"
    assert starter().threshold_on == "calibrate"  # on photographs to which nothing was fitted
    assert released().test_crop == "image"
    assert paper().test_crop == "face"


def test_cutting_a_face() -> None:
    """Both cut 1.3 times the box to 224 pixels; the release without antialiasing."""
    assert dataclasses.replace(released().preprocess, antialias=True) == paper().preprocess == PreprocessSpec()
    assert (PreprocessSpec().margin, PreprocessSpec().size) == (1.3, 224)
    assert not released().preprocess.antialias


def test_ablations_leave_one_task_out() -> None:
    """They are the paper's recipe without one task."""
    assert exif_only().losses.manipulation_weight == 0
    assert face_only().losses.ranking_weight == 0

    def without_task(recipe: Recipe) -> Recipe:
        return dataclasses.replace(recipe, name="", losses=paper().losses)

    assert without_task(exif_only()) == without_task(face_only()) == without_task(paper())


@pytest.mark.parametrize("name", RECIPES)
def test_names_are_the_recipes_own(name: str) -> None:
    """Each recipe has the name under which it is listed."""
    assert RECIPES[name]().name == name


def test_a_run_keeps_its_batch_size(tmp_path: Path) -> None:
    """Later steps have the run's number, unless an option states another."""
    assert find_recipe("starter", tmp_path) == starter()
    smaller = find_recipe("starter", tmp_path, 8)
    assert smaller == dataclasses.replace(starter(), batch_size=8)
    (tmp_path / "recipe.json").write_text(json.dumps(dataclasses.asdict(smaller)))
    assert find_recipe("starter", tmp_path) == smaller
    assert find_recipe("starter", tmp_path, 16).batch_size == 16
    assert find_recipe("paper", tmp_path) == paper()
