"""The accuracies of the pretext tasks on the role `test`, which influenced no choice.

The accuracies that `train` reports selected the epoch and are slightly optimistic; these are not. Pairs of faces are
not independent, so the bootstrap intervals resample whole photographs.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ingest.exif import TAG_NAMES
from training.data.shards import FaceSet
from training.evaluation.measures import Rate
from training.evaluation.operating_points import name_photographs
from training.pretext.checkpoints import load_checkpoint
from training.pretext.network import MANIPULATION, build_network
from training.pretext.validation import make_validation_batches, predict, select_validation_faces
from training.recipes import Recipe

BOOTSTRAPS = 500
Matrix = NDArray[np.float64]


def measure_pretext(checkpoint: Path, faces: FaceSet, recipe: Recipe) -> dict[str, Rate]:
    """Return the accuracy of each task that the recipe trains and for which `faces` have data; chance is 0.5.

    Rankings: the share of pairs with different tags that are ordered correctly, of crops as served. Manipulation: each
    face once untouched and once manipulated.
    """
    network = build_network(recipe)
    load_checkpoint(checkpoint, network)
    chosen = select_validation_faces(faces, recipe.seed)
    predictions = predict(network, make_validation_batches(chosen, recipe))
    photos = name_photographs(chosen.sources, chosen.photos)
    served = predictions.served
    scale_values, tags = predictions.scale_values[served].numpy(), predictions.tags[served].numpy()
    rates = {}
    if recipe.losses.ranking_weight:
        for column, name in enumerate(TAG_NAMES):
            known = np.flatnonzero(~np.isnan(tags[:, column]))
            ordered = measure_ordering(scale_values[known, column], tags[known, column], photos[known])
            if ordered is not None:
                rates[name] = ordered
    if recipe.losses.manipulation_weight:
        positive, untouched, altered = predictions.logits > 0, predictions.untouched, predictions.altered
        right = (~positive[untouched].numpy(), positive[altered].numpy())
        rates[MANIPULATION] = measure_balanced_accuracy(*right, photos)
    return rates


def measure_ordering(
    scale_values: NDArray[np.floating], tags: NDArray[np.floating], photos: NDArray[np.generic]
) -> Rate | None:
    """Return the share of pairs with different `tags` that `scale_values` order correctly; None if all are equal."""
    higher = np.sign(tags[:, None] - tags[None, :])
    differ = (higher != 0).astype(np.float64)
    if not differ.any():
        return None
    right = (np.sign(scale_values[:, None] - scale_values[None, :]) == higher) * differ
    draws = [(times @ right @ times) / max(times @ differ @ times, 1.0) for times in resample_photographs(photos)]
    return make_rate(right.sum() / differ.sum(), draws, len(tags))


def measure_balanced_accuracy(
    untouched: NDArray[np.bool_], manipulated: NDArray[np.bool_], photos: NDArray[np.generic]
) -> Rate:
    """Return the mean of two shares: correct predictions for the faces `untouched`, and for them `manipulated`."""
    both = (untouched.astype(np.float64) + manipulated) / 2
    return make_rate(both.mean(), [times @ both / times.sum() for times in resample_photographs(photos)], len(both))


def resample_photographs(photos: NDArray[np.generic]) -> list[Matrix]:
    """Return the count of each face in each bootstrap sample of photographs."""
    rng = np.random.default_rng(2024)
    names, rows_of = np.unique(photos, return_inverse=True)
    count = len(names)
    drawn = (np.bincount(rng.integers(count, size=count), minlength=count) for _ in range(BOOTSTRAPS))
    return [times[rows_of].astype(np.float64) for times in drawn]


def make_rate(value: float, draws: list[float], count: int) -> Rate:
    """Return a rate with the percentile interval of its bootstrap `draws`."""
    low, high = np.quantile(draws, [0.025, 0.975])
    return Rate(float(value), float(low), float(high), count)
