"""What can be known before a training starts: whether there is anything to learn from, in whole sentences."""

import numpy as np

from training.data.exif import TAG_NAMES
from training.data.shards import FaceSet
from training.recipes import Recipe


def check_faces(train: FaceSet, held_out: FaceSet, recipe: Recipe, ranks: int) -> None:
    """Refuse a training that could not run.

    Raises:
        ValueError: fewer faces than a batch, no held-out face, or a batch that the ranks cannot share evenly.
    """
    if len(train) < recipe.batch_size:
        message = (
            f"{len(train)} training faces are fewer than one batch of {recipe.batch_size}: "
            "prepare more photographs, or take a recipe with a smaller batch_size"
        )
        raise ValueError(message)
    if not len(held_out):
        message = (
            "there is no held-out face to choose the checkpoint by: give a source the role `fit` and prepare again"
        )
        raise ValueError(message)
    if recipe.batch_size % ranks:
        message = (
            f"a batch of {recipe.batch_size} faces cannot be shared evenly by {ranks} processes: start another number"
        )
        raise ValueError(message)


def list_warnings(train: FaceSet, recipe: Recipe, *, random_weights: bool) -> list[str]:
    """Return warnings of what will not be learned, one sentence each; `random_weights` where none were given."""
    sentences = []
    if random_weights:
        sentences.append(
            f"the {recipe.backbone} starts from random weights, which take far more photographs than the recipe was "
            "made for: give initial ones with --init (from `unlensed-train import`, or torchvision's as safetensors)"
        )
    if recipe.losses.ranking_weight:
        useless = [name for column, name in enumerate(TAG_NAMES) if count_distinct(train.tags[:, column]) < 2]  # noqa: PLR2004 - a pair to rank
        if len(useless) == len(TAG_NAMES):
            cameras = len(set(train.cameras.tolist()) - {""})
            sentences.append(
                f"no two training faces differ in any EXIF tag ({cameras} named cameras), so every ranking pair is a "
                "tie or unknown and nothing will be ranked: add photographs with EXIF from other cameras"
            )
        elif useless:
            sentences.append(f"no two training faces differ in {', '.join(useless)}: these tags will not be learned")
    if recipe.losses.manipulation_weight and not recipe.augment.manipulated_share:
        sentences.append("the recipe draws no manipulated face, so the manipulation head will learn nothing")
    return sentences


def count_distinct(values: np.ndarray) -> int:
    """Return how many different values there are, NaN left out."""
    return len(np.unique(values[~np.isnan(values)]))
