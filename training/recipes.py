"""Experiments as functions that return complete, frozen settings; the only home of training's knobs.

The paper and the authors' released code differ in many places; `paper` and `released` name both readings. One thing
is in neither: the release resampled manipulated faces alone, so that resampling gave them away.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal

from ingest.spec import PreprocessSpec

Precision = Literal["fp32", "fp16", "int8", "fp8"]
Backbone = Literal["resnet50", "efficientnet_lite0"]
Covariance = Literal["full", "tied", "diag"]


@dataclass(frozen=True, slots=True)
class AugmentRule:
    """How a training face is drawn.

    Attributes:
        manipulated_share: odds of a manipulated face; each of the four kinds has a quarter of them.
        affine_scale: range of the piecewise affine's grid jitter, a share of the crop.
        vertical_mouth: "mirror" flips the mouth upside down (the paper's words), "half_turn" rotates it (the release).
        eyes: "any" flips the right eye, the left one or both; "one" always a single one (the release).
        rotation_deg: largest rotation of the common resampling chain, either way.
        zoom: largest relative zoom of the common chain, either way.
        shift: largest shift of the common chain, a share of the crop.
        warps: how many piecewise affine warps are made at the start, to be drawn from.
    """

    manipulated_share: float = 0.5
    affine_scale: tuple[float, float] = (0.02, 0.045)
    vertical_mouth: Literal["mirror", "half_turn"] = "mirror"
    eyes: Literal["any", "one"] = "any"
    rotation_deg: float = 8.0
    zoom: float = 0.08
    shift: float = 0.03
    warps: int = 48


@dataclass(frozen=True, slots=True)
class OptimiserRule:
    """How gradients become steps, and how the rate falls.

    Attributes:
        decay: "decoupled" is AdamW (the paper), "coupled" plain Adam with an L2 penalty (the release).
        head_rate: learning rate of the new layers: the heads, and the one that makes 768 features of a trunk.
        backbone_rate: learning rate of the pre-trained layers.
        weight_decay: strength of the decay.
        betas, epsilon: Adam's.
        cosine_epochs: half a period of the cosine that the rates follow; None is the whole training. The release
            takes 10 of 20 epochs, so that its rate is back at its start in the end.
        rate_floor: what the cosine falls to.
        stepwise: whether the rate changes with each step or only with each epoch.
    """

    decay: Literal["decoupled", "coupled"]
    head_rate: float
    backbone_rate: float
    weight_decay: float
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-8
    cosine_epochs: int | None = None
    rate_floor: float = 0.0
    stepwise: bool = True


@dataclass(frozen=True, slots=True)
class PairRule:
    """Where the paper and the authors' release differ.

    Attributes:
        thurstone_scale: factor of the difference of two scale values inside the normal distribution function;
            1/sqrt(2) in the paper, 2 in the release.
        tie_target: probability asked of two equal tags; 1 in the paper (`>=`), 0.5 in the release.
    """

    thurstone_scale: float = 1 / math.sqrt(2)
    tie_target: float = 0.5


@dataclass(frozen=True, slots=True)
class LossRule:
    """Eqs. 1 to 6 of the paper and what the release made of them.

    Attributes:
        pairs: reading of Eqs. 1 and 2.
        ranking_weight: of the mean of the four ranking losses; 0 leaves the EXIF task out.
        manipulation_weight: of Eq. 5; 0 leaves the manipulation task out.
        rank_manipulated: whether manipulated faces take part in ranking pairs (the release) or not (the paper).
    """

    pairs: PairRule = field(default_factory=PairRule)
    ranking_weight: float = 1.0
    manipulation_weight: float = 1.0
    rank_manipulated: bool = False


@dataclass(frozen=True, slots=True)
class MixtureShape:
    """A mixture to try: kind of covariance, number of components, and how far correlations are shrunk to zero."""

    covariance: Covariance
    components: int
    shrinkage: float = 0.0


@dataclass(frozen=True, slots=True)
class MixtureRule:
    """How the mixture is fitted.

    Attributes:
        shapes: compared by the likelihood of held-out sources; a single one is taken as it is.
        role_sets: whose photographs are fitted; compared likewise.
        variance_floor: added to every variance, as a share of the mean variance.
        variance_added: added to every variance, absolutely (scikit-learn's `reg_covar`).
        seed: of the initialisation.
    """

    shapes: tuple[MixtureShape, ...] = (
        *(MixtureShape("diag", components) for components in (1, 2, 4, 8)),
        *(MixtureShape("full", 1, shrinkage) for shrinkage in (0.05, 0.1, 0.2, 0.3)),
    )
    role_sets: tuple[tuple[str, ...], ...] = (("fit",), ("fit", "train"))
    variance_floor: float = 1e-2
    variance_added: float = 0.0
    seed: int = 2024


@dataclass(frozen=True, slots=True)
class Recipe:
    """One complete experiment.

    Attributes:
        name: recorded in checkpoints and bundles.
        seed: of every random choice.
        backbone: the network below the 768 features.
        frozen_blocks: how many of the backbone's first blocks keep their initial weights and statistics, and the
            stem with them; 0 freezes nothing. ResNet-50 has 4 blocks (its layers), the cut EfficientNet-Lite0 11.
        frozen_statistics: whether batch normalisation keeps the statistics that it starts with, in every block.
        centred_heads: whether the heads see features centred and scaled over the batch.
        batch_size: faces; the ranking loss sees all pairs of a batch, over all ranks and micro-batches.
        micro_batch: faces that go through the network at once on each rank; None is the rank's whole share.
        epochs: passes over the training faces.
        bf16: whether the network runs under BF16 autocast.
        optimiser: how gradients become steps.
        losses: what is minimised.
        augment: how faces are drawn.
        preprocess: how a face is cut and scaled; the bundle states the same.
        mixture: how the mixture is fitted.
        threshold_on: whose 5th percentile of the likelihood is the threshold of the comparable evaluation:
            "train" is the photographs that the mixture was fitted on (paper and release), "calibrate" held-out ones.
        test_crop: what the comparable evaluation takes of a picture: its "face", or the whole "image" (the release).
        precision: of the deployed engine.
        min_face_px: shortest side of a face that is used.
    """

    name: str
    seed: int
    backbone: Backbone
    batch_size: int
    epochs: int
    optimiser: OptimiserRule
    micro_batch: int | None = None
    frozen_blocks: int = 0
    frozen_statistics: bool = False
    centred_heads: bool = False
    bf16: bool = False
    losses: LossRule = field(default_factory=LossRule)
    augment: AugmentRule = field(default_factory=AugmentRule)
    preprocess: PreprocessSpec = field(default_factory=PreprocessSpec)
    mixture: MixtureRule = field(default_factory=MixtureRule)
    threshold_on: Literal["train", "calibrate"] = "train"
    test_crop: Literal["face", "image"] = "face"
    precision: Precision = "int8"
    min_face_px: float = 100.0


def paper() -> Recipe:
    """Return the experiment as the paper describes it (sections III and IV-A)."""
    return Recipe(
        name="paper",
        seed=2024,
        backbone="resnet50",
        batch_size=256,
        epochs=20,
        bf16=True,
        optimiser=OptimiserRule(decay="decoupled", head_rate=1e-5, backbone_rate=1e-5, weight_decay=1e-4),
        losses=LossRule(PairRule(thurstone_scale=1 / math.sqrt(2), tie_target=1.0)),
        mixture=MixtureRule(
            shapes=(MixtureShape("full", 8),), role_sets=(("fit",),), variance_floor=0.0, variance_added=1e-6
        ),
        precision="fp16",
    )


def released() -> Recipe:
    """Return the experiment as the authors' released code runs it, without its resampling confound.

    The release starts from EXIF-as-language's weights (`--init` with an import of them), not from ImageNet's; it
    also trains on a last, smaller batch, which is dropped here.
    """
    return replace(
        paper(),
        name="released",
        seed=42,
        optimiser=OptimiserRule(
            decay="coupled",
            head_rate=1e-5,
            backbone_rate=1e-5,
            weight_decay=1e-4,
            betas=(0.9, 0.98),
            epsilon=1e-6,
            cosine_epochs=10,
            rate_floor=1e-7,
            stepwise=False,
        ),
        losses=LossRule(PairRule(thurstone_scale=2.0, tie_target=0.5), ranking_weight=4.0, rank_manipulated=True),
        augment=AugmentRule(affine_scale=(0.04, 0.05), vertical_mouth="half_turn", eyes="one"),
        preprocess=PreprocessSpec(antialias=False),
        mixture=MixtureRule(
            shapes=(MixtureShape("full", 12),), role_sets=(("fit",),), variance_floor=0.0, variance_added=1e-6
        ),
        test_crop="image",
    )


def exif_only() -> Recipe:
    """Return the ablation that only ranks EXIF tags (EXIF-L2R of Table II): no manipulated face is drawn."""
    rule = paper()
    return replace(
        rule,
        name="exif_only",
        losses=replace(rule.losses, manipulation_weight=0.0),
        augment=replace(rule.augment, manipulated_share=0.0),
    )


def face_only() -> Recipe:
    """Return the ablation that only spots manipulated faces."""
    rule = paper()
    return replace(rule, name="face_only", losses=replace(rule.losses, ranking_weight=0.0))


def starter() -> Recipe:
    """Return the recipe of the starter bundle: minutes on two cores, a demonstration of the method.

    The early blocks keep their ImageNet weights: with a few hundred photographs, most of them from two
    cameras, they are not worth the two thirds of the time that training them would take.
    """
    return Recipe(
        name="starter",
        seed=2024,
        backbone="efficientnet_lite0",
        frozen_blocks=5,
        frozen_statistics=True,
        centred_heads=True,
        batch_size=32,
        epochs=10,
        optimiser=OptimiserRule(decay="decoupled", head_rate=2e-3, backbone_rate=1e-4, weight_decay=1e-2),
        threshold_on="calibrate",
    )


RECIPES: dict[str, Callable[[], Recipe]] = {
    recipe.__name__: recipe for recipe in (paper, released, exif_only, face_only, starter)
}
