"""Checks before a training starts: whether it can run, and whether there is something to learn."""

import numpy as np

from ingest.exif import TAG_NAMES
from training.data.shards import FaceSet
from training.recipes import Recipe


def check_faces(train: FaceSet, held_out: FaceSet, recipe: Recipe, ranks: int) -> None:
    """Refuse a training that cannot run.

    Raises:
        ValueError: fewer faces than a batch, no held-out face, or a batch size that the ranks do not divide.
    """
    if len(train) < recipe.batch_size:
        message = (
            f"{len(train)} training faces are fewer than one batch of {recipe.batch_size}: "
            "prepare more photographs, or set a smaller batch with --batch-size"
        )
        raise ValueError(message)
    if not len(held_out):
        message = (
            "there is no held-out face to select the checkpoint: assign the role `fit` to a source and prepare again"
        )
        raise ValueError(message)
    if recipe.batch_size % ranks:
        message = (
            f"a batch of {recipe.batch_size} faces cannot be divided evenly by {ranks} processes: "
            "start a number of processes that divides it"
        )
        raise ValueError(message)


def list_warnings(train: FaceSet, recipe: Recipe, *, random_weights: bool) -> list[str]:
    """Return warnings about what will not be learned; `random_weights` if no initial weights were given."""
    sentences = []
    if random_weights:
        sentences.append(
            f"the {recipe.backbone} starts from random weights, which need far more photographs than the recipe was "
            "made for: give initial weights with --init (from `unlensed-train import`, or torchvision's as safetensors)"
        )
    if recipe.losses.ranking_weight:
        useless = [name for column, name in enumerate(TAG_NAMES) if count_distinct(train.tags[:, column]) < 2]  # noqa: PLR2004 - a pair to rank
        if len(useless) == len(TAG_NAMES):
            cameras = len(set(train.cameras.tolist()) - {""})
            sentences.append(
                f"no two training faces differ in any EXIF tag ({cameras} named cameras), so every ranking pair is "
                "equal or unknown and nothing will be learned: add photographs with EXIF tags from other cameras"
            )
        elif useless:
            sentences.append(f"no two training faces differ in {', '.join(useless)}: these tags will not be learned")
    if recipe.losses.manipulation_weight and not recipe.augment.manipulated_share:
        sentences.append("the recipe draws no manipulated face, so the manipulation head will learn nothing")
    return sentences


def count_distinct(values: np.ndarray) -> int:
    """Return the number of different values, without NaN."""
    return len(np.unique(values[~np.isnan(values)]))
