"""Experiments as functions that return complete, frozen settings; the only home of training's knobs."""

from dataclasses import dataclass, field
from typing import Literal

from training.ranking import PairRule

Precision = Literal["fp32", "fp16", "weights_int8", "int8"]


@dataclass(frozen=True, slots=True)
class AugmentRule:
    """How a training face is drawn.

    Attributes:
        manipulated_share: odds of a manipulated face (1/2 in the paper).
        affine_scale: range of the piecewise affine's grid jitter, a share of the crop.
        rotation_deg: largest rotation of the common resampling chain, either way.
        zoom: largest relative zoom of the common chain, either way.
        shift: largest shift of the common chain, a share of the crop.
        warps: how many piecewise affine warps are made at the start, to be drawn from.
    """

    manipulated_share: float = 0.5
    affine_scale: tuple[float, float] = (0.02, 0.045)
    rotation_deg: float = 8.0
    zoom: float = 0.08
    shift: float = 0.03
    warps: int = 48


@dataclass(frozen=True, slots=True)
class MixtureShape:
    """A mixture to try: kind of covariance, number of components, and how far correlations are shrunk to zero."""

    covariance: Literal["diag", "full"]
    components: int
    shrinkage: float = 0.0


@dataclass(frozen=True, slots=True)
class MixtureRule:
    """How the mixture is fitted.

    Attributes:
        shapes: compared by the likelihood of held-out sources.
        role_sets: whose photographs are fitted; compared likewise.
        variance_floor: added to every variance, as a share of the mean variance.
        seed: of the initialisation.
    """

    shapes: tuple[MixtureShape, ...] = (
        *(MixtureShape("diag", components) for components in (1, 2, 4, 8)),
        *(MixtureShape("full", 1, shrinkage) for shrinkage in (0.05, 0.1, 0.2, 0.3)),
    )
    role_sets: tuple[tuple[str, ...], ...] = (("fit",), ("fit", "train"))
    variance_floor: float = 1e-2
    seed: int = 2024


@dataclass(frozen=True, slots=True)
class Recipe:
    """One complete experiment.

    Attributes:
        name: recorded in checkpoints and bundles.
        seed: of every random choice.
        frozen_blocks: how many of the backbone's first blocks keep their ImageNet weights.
        batch_size: faces; the ranking loss sees all pairs of a batch.
        epochs: passes over the training faces.
        head_rate: learning rate of the new layers, cosine-decayed to zero.
        backbone_rate: learning rate of the pre-trained layers.
        weight_decay: decoupled.
        manipulation_weight: of Eq. 5 against the mean of the four ranking losses.
        pairs: reading of Eqs. 1 and 2.
        augment: how faces are drawn.
        mixture: how the mixture is fitted.
        precision: of the deployed engine; "int8", "weights_int8", "fp16" or "fp32".
        min_face_px: shortest side of a face that is used.
    """

    name: str
    seed: int
    frozen_blocks: int
    batch_size: int
    epochs: int
    head_rate: float
    backbone_rate: float
    weight_decay: float
    manipulation_weight: float
    pairs: PairRule = field(default_factory=PairRule)
    augment: AugmentRule = field(default_factory=AugmentRule)
    mixture: MixtureRule = field(default_factory=MixtureRule)
    precision: Precision = "int8"
    min_face_px: float = 100.0


def starter() -> Recipe:
    """Return the recipe of the starter bundle: minutes on two cores, a demonstration of the method.

    The early blocks keep their ImageNet weights: with a few hundred photographs, most of them from two
    cameras, they are not worth the two thirds of the time that training them would take.
    """
    return Recipe(
        name="starter",
        seed=2024,
        frozen_blocks=5,
        batch_size=32,
        epochs=10,
        head_rate=2e-3,
        backbone_rate=1e-4,
        weight_decay=1e-2,
        manipulation_weight=1.0,
    )


RECIPES = {"starter": starter}
