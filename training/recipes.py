"""The experiments: each function returns the complete, frozen settings of one. No setting of training is elsewhere.

The paper and the authors' released code differ in many places. `paper` and `released` are the two versions. One
property of the release is left out: it resampled manipulated faces only, so that resampling alone identified them.
"""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Literal

from ingest.spec import PreprocessSpec
from scorer.fitting.shapes import MixtureRule, MixtureShape

PAPER_FEATURES = 768  # of the paper, and of every published checkpoint
Precision = Literal["fp32", "fp16", "int8", "fp8"]
Backbone = Literal["resnet50", "efficientnet_lite0"]


class Manipulation(StrEnum):
    """The manipulation of a face."""

    NONE = "none"
    EYE_FLIP = "eye_flip"
    MOUTH_FLIP_HORIZONTAL = "mouth_flip_horizontal"
    MOUTH_FLIP_VERTICAL = "mouth_flip_vertical"
    PIECEWISE_AFFINE = "piecewise_affine"
    COPY = "copy"


@dataclass(frozen=True, slots=True)
class CopierRule:
    """The copiers, tiny networks that copy faces (`training.pretext.copiers`), and their training on the role `train`.

    Attributes:
        kinds: the networks.
        share: probability that a manipulated face is a copy.
        steps: of the training of each network.
        batch: patches of faces in a step.
        patch_px: side of a patch, a multiple of 8.
    """

    kinds: tuple[str, ...] = ("nearest8", "transposed4", "shuffle8", "sr4", "denoise")
    share: float = 0.5
    steps: int = 1000
    batch: int = 8
    patch_px: int = 112


@dataclass(frozen=True, slots=True)
class AugmentRule:
    """How a training face is drawn. Neither the paper nor the release augments; the defaults do not, either.

    Attributes:
        manipulated_share: probability that the face of the manipulation task is manipulated.
        kinds: the manipulations beside copies, equally likely; the default are the paper's four.
        copiers: how copies are made, a fifth manipulation; None: there are none (the paper).
        processing: whether the faces of the manipulation task, of both classes, are randomly reduced, edited and
            compressed (`training.data.processing`).
        processed_ranking: share of the crops of the ranking task that are reduced and compressed, too; the others are
            exactly as served.
        affine_scale: range of the standard deviation of the piecewise affine warp's grid points, as a share of the
            crop's side (imgaug's `scale`). The paper states none.
        vertical_mouth: "mirror" flips the mouth upside down (the paper), "half_turn" rotates it (the release).
        eyes: "any" flips the right eye, the left eye or both; "one" flips a single eye (the release).
        rotation_deg: largest rotation of a face of the manipulation task, in both directions.
        zoom: largest relative zoom of such a face, in both directions.
        shift: largest shift of such a face, as a share of the crop's side.
        mirror: whether half of the faces are mirrored, in both tasks.
        warps: number of piecewise affine warps, which are made once at the start.
    """

    manipulated_share: float = 0.5
    kinds: tuple[Manipulation, ...] = (
        Manipulation.EYE_FLIP,
        Manipulation.MOUTH_FLIP_HORIZONTAL,
        Manipulation.MOUTH_FLIP_VERTICAL,
        Manipulation.PIECEWISE_AFFINE,
    )
    affine_scale: tuple[float, float] = (0.02, 0.045)
    vertical_mouth: Literal["mirror", "half_turn"] = "mirror"
    eyes: Literal["any", "one"] = "any"
    rotation_deg: float = 0.0
    zoom: float = 0.0
    shift: float = 0.0
    mirror: bool = False
    warps: int = 48
    copiers: CopierRule | None = None
    processing: bool = False
    processed_ranking: float = 0.0


@dataclass(frozen=True, slots=True)
class OptimiserRule:
    """The optimiser and the schedule of its learning rate.

    Attributes:
        decay: "decoupled" is AdamW (the paper), "coupled" plain Adam with an L2 penalty (the release).
        head_rate: learning rate of the new layers: the heads, and the layer that computes the features.
        backbone_rate: learning rate of the pre-trained layers.
        weight_decay: strength of the decay.
        betas, epsilon: Adam's.
        cosine_epochs: half a period of the cosine schedule; None is the whole training. The release uses 10 of its
            20 epochs, so its last epoch has the initial rate again.
        rate_floor: the lowest rate of the cosine.
        stepwise: whether the rate changes with each step; else with each epoch.
        warmup_steps: number of first steps in which the rate rises linearly.
        clip_norm: largest norm of the gradient of all parameters; a longer one is scaled down to it. None: any.
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
    warmup_steps: int = 0
    clip_norm: float | None = None


@dataclass(frozen=True, slots=True)
class PairRule:
    """The target and the predicted probability of a ranking pair, where the paper and the release differ.

    Attributes:
        thurstone_scale: factor of the difference of two scale values inside the normal distribution function;
            1/sqrt(2) in the paper (Eq. 2), 2 in the release.
        tie_target: target probability of two equal tags; 1 in the paper (`>=` in Eq. 1), 0.5 in the release.
    """

    thurstone_scale: float = 1 / math.sqrt(2)
    tie_target: float = 0.5


@dataclass(frozen=True, slots=True)
class LossRule:
    """The loss of a batch: Eqs. 1 to 6 of the paper (section II-A), and where the release differs.

    Attributes:
        pairs: Eqs. 1 and 2.
        ranking_weight: of the sum of the four ranking losses; 1 in Eq. 6, which weighs all five tasks equally. 0 leaves
            the EXIF task out.
        manipulation_weight: of the manipulation loss (Eq. 4); 1 in Eq. 6. 0 leaves the manipulation task out.
        rank_manipulated: whether the crops of the manipulation task are ranked, too (the release); the paper ranks
            photographic faces only.
        camera_weight: of the cross-entropy of a head that tells the cameras of the ranked faces apart. Neither the
            paper nor the release has it or the next; the authors' follow-up classifies further tags.
        kind_weight: of the cross-entropy of a head that tells the kinds of manipulated faces apart.
    """

    pairs: PairRule = field(default_factory=PairRule)
    ranking_weight: float = 1.0
    manipulation_weight: float = 1.0
    rank_manipulated: bool = False
    camera_weight: float = 0.0
    kind_weight: float = 0.0


@dataclass(frozen=True, slots=True)
class PcaHead:
    """A last layer of the deployed network: whitened principal components of its features.

    Attributes:
        components: number of them; the bundle has as many features.
        roles: the photographs on which the layer is fitted.
    """

    components: int
    roles: tuple[str, ...] = ("fit", "train")


@dataclass(frozen=True, slots=True)
class Recipe:
    """One complete experiment.

    Attributes:
        name: is recorded in checkpoints and bundles.
        seed: of every random choice.
        backbone: the network that computes the features.
        feature_size: number of features.
        frozen_blocks: number of the backbone's first blocks that, with the stem, keep their initial weights and
            statistics; 0 freezes nothing. ResNet-50 has 4 blocks (its layers), the shortened EfficientNet-Lite0 has 11.
        frozen_statistics: whether batch normalisation keeps its initial statistics in every block.
        centred_heads: whether the heads receive features centred and scaled over the batch.
        batch_size: in faces, each with one crop for each trained task (see `training.pretext.batches`); the ranking
            loss uses all pairs of a batch, over all ranks and micro-batches.
        micro_batch: crops in one forward pass on each rank; None is the rank's whole share.
        epochs: passes over the training faces.
        keeps: the weights that a training keeps: of the epoch with the highest figure of merit on the role `fit`
            ("best"), or of the last epoch.
        bf16: whether the network is trained under BF16 autocast (on a CPU only if it has BF16 arithmetic).
        optimiser: the optimiser and its schedule.
        losses: the loss.
        augment: how training faces are drawn.
        balance_sources: whether a face of a source with n faces is drawn with a probability in proportion to n^-1/2, so
            that no source dominates. An epoch has as many draws as faces; else it has each face once.
        preprocess: how a face is cut and scaled; the bundle contains the same settings.
        head: the layer that is added to the trained network; None adds none.
        mixture: how the mixture is fitted.
        threshold_on: the photographs whose 5th percentile of the log-likelihood is the threshold under the paper's
            protocol: "train", those that the mixture was fitted on (paper and release), or "calibrate", held-out ones.
        test_crop: the part of a picture that the paper's protocol scores: its "face", or the whole "image" (release).
        precision: of the deployed engine.
        min_face_px: faces whose visible part has a shorter side than this are not used.
    """

    name: str
    seed: int
    backbone: Backbone
    batch_size: int
    epochs: int
    optimiser: OptimiserRule
    feature_size: int = PAPER_FEATURES
    micro_batch: int | None = None
    frozen_blocks: int = 0
    frozen_statistics: bool = False
    centred_heads: bool = False
    keeps: Literal["best", "last"] = "best"
    bf16: bool = False
    losses: LossRule = field(default_factory=LossRule)
    augment: AugmentRule = field(default_factory=AugmentRule)
    balance_sources: bool = False
    preprocess: PreprocessSpec = field(default_factory=PreprocessSpec)
    head: PcaHead | None = None
    mixture: MixtureRule = field(default_factory=MixtureRule)
    threshold_on: Literal["train", "calibrate"] = "train"
    test_crop: Literal["face", "image"] = "face"
    precision: Precision = "int8"
    min_face_px: float = 100.0

    @property
    def output_size(self) -> int:
        """The number of features of the deployed network."""
        return self.head.components if self.head else self.feature_size


def paper() -> Recipe:
    """Return the experiment as the paper describes it (sections II and III-A).

    Deviations: the ranked crops are untouched and as served, and the manipulation task has crops of its own, which all
    pass one resampling (see `training.data.manipulations`). So a batch of 256 faces has 512 crops.
    """
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

    The release, like the paper, starts from the weights of EXIF-as-language: convert them with `import` and pass them
    as `--init`. It ranks manipulated faces and their originals together, here the crops of both tasks. The ranked ones
    are reduced without antialiasing, as served, those of the manipulation task by area. The release also trains on a
    last, smaller batch, which is dropped here.
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
        losses=LossRule(PairRule(thurstone_scale=2.0, tie_target=0.5), rank_manipulated=True),
        augment=AugmentRule(affine_scale=(0.04, 0.05), vertical_mouth="half_turn", eyes="one"),
        preprocess=PreprocessSpec(antialias=False),
        mixture=MixtureRule(
            shapes=(MixtureShape("full", 12),), role_sets=(("fit",),), variance_floor=0.0, variance_added=1e-6
        ),
        test_crop="image",
    )


def exif_only() -> Recipe:
    """Return the ablation with the EXIF ranking task only (EXIF-L2R of Table II)."""
    rule = paper()
    return replace(rule, name="exif_only", losses=replace(rule.losses, manipulation_weight=0.0))


def face_only() -> Recipe:
    """Return the ablation with the manipulation task only (Table III)."""
    rule = paper()
    return replace(rule, name="face_only", losses=replace(rule.losses, ranking_weight=0.0))


def starter() -> Recipe:
    """Return the recipe for a small bundle, which trains in less than two hours on two cores.

    The first blocks keep their ImageNet weights. Faces are augmented beyond the paper: half of them are mirrored in
    both tasks, and those of the manipulation task are rotated, zoomed and shifted. Four of five manipulated faces are
    copies by tiny networks trained on the same photographs, a fifth manipulation. The faces of the manipulation task
    and half of the ranked ones are reduced and compressed at random, so that the features are also of faces as sites
    store them. Two heads that only training uses tell cameras and kinds of manipulation apart, and sources with many
    faces are drawn less often. The last epoch counts. One Gaussian is fitted on 4 principal components, of faces that
    training did not see and their copies: with all features, a full covariance rejected most photographs of other
    sources. The shipped bundle was trained with an earlier version of this recipe; `training/README.md` says why.
    """
    return Recipe(
        name="starter",
        seed=2024,
        backbone="efficientnet_lite0",
        feature_size=256,
        frozen_blocks=3,
        frozen_statistics=True,
        centred_heads=True,
        batch_size=24,
        epochs=24,
        keeps="last",
        bf16=True,
        optimiser=OptimiserRule(
            decay="decoupled",
            head_rate=3e-3,
            backbone_rate=3e-4,
            weight_decay=1e-2,
            warmup_steps=50,
            clip_norm=5.0,
        ),
        losses=LossRule(manipulation_weight=4.0, camera_weight=0.1, kind_weight=0.2),
        augment=AugmentRule(
            rotation_deg=8.0,
            zoom=0.08,
            shift=0.03,
            mirror=True,
            manipulated_share=0.6,
            copiers=CopierRule(share=0.8),
            processing=True,
            processed_ranking=0.5,
        ),
        balance_sources=True,
        head=PcaHead(components=4, roles=("fit",)),
        mixture=MixtureRule(
            shapes=(MixtureShape("full", 1, 0.1),),
            role_sets=(("fit",),),
            copies=True,
        ),
        threshold_on="calibrate",
    )


RECIPES: dict[str, Callable[[], Recipe]] = {
    recipe.__name__: recipe for recipe in (paper, released, exif_only, face_only, starter)
}


def find_recipe(name: str, run: Path | None = None, batch_size: int | None = None) -> Recipe:
    """Return a recipe with `batch_size` faces a batch, else with the number that `run` was trained with.

    Args:
        name: of the recipe.
        run: a run folder; its `recipe.json` counts if its recipe has this name.
        batch_size: instead of the recipe's.
    """
    recipe = RECIPES[name]()
    path = run / "recipe.json" if run else None
    if batch_size is None and path is not None and path.is_file():
        trained = json.loads(path.read_text(encoding="utf-8"))
        batch_size = trained["batch_size"] if trained["name"] == name else None
    return replace(recipe, batch_size=batch_size or recipe.batch_size)
