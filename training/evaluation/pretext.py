"""The pretext tasks on photographs that had no say in anything: the role `test`.

What `train` reports chose the epoch and is slightly optimistic; this is not. Pairs of faces are not independent, so
intervals draw whole photographs.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.data.exif import TAG_NAMES
from training.data.manipulations import make_sampler
from training.data.shards import WIDE_SIZE, FaceSet
from training.evaluation.measures import Rate
from training.evaluation.operating_points import name_photographs
from training.pretext.checkpoints import load_checkpoint
from training.pretext.network import MANIPULATION, build_network
from training.pretext.validation import fixed_batches, pick_validation, predict
from training.recipes import Recipe

BOOTSTRAPS = 500
Matrix = NDArray[np.float64]


def measure_pretext(checkpoint: Path, faces: FaceSet, recipe: Recipe) -> dict[str, Rate]:
    """Return the accuracy of each task that the recipe trains and `faces` can tell of; chance is a half.

    Rankings: the share of pairs with different tags that are ordered rightly. Manipulation: each face once untouched
    and once manipulated.
    """
    network = build_network(recipe)
    load_checkpoint(checkpoint, network)
    chosen = pick_validation(faces, recipe.seed)
    sampler = make_sampler(recipe.preprocess.size, WIDE_SIZE, recipe.augment, recipe.seed)
    told = predict(network, fixed_batches(chosen, sampler, recipe.seed))
    manipulated = told.manipulated.numpy()
    photos = name_photographs(chosen.sources, chosen.photos)
    scale_values, tags = told.scale_values.numpy()[~manipulated], told.tags.numpy()[~manipulated]
    rates = {}
    if recipe.losses.ranking_weight:
        for column, name in enumerate(TAG_NAMES):
            known = np.flatnonzero(~np.isnan(tags[:, column]))
            ordered = rate_ordering(scale_values[known, column], tags[known, column], photos[known])
            if ordered is not None:
                rates[name] = ordered
    if recipe.losses.manipulation_weight:
        right = (told.logits.numpy() > 0) == manipulated
        rates[MANIPULATION] = rate_both(right[~manipulated], right[manipulated], photos)
    return rates


def rate_ordering(
    scale_values: NDArray[np.floating], tags: NDArray[np.floating], photos: NDArray[np.generic]
) -> Rate | None:
    """Return the share of the pairs of different `tags` that `scale_values` order rightly; None where all are equal."""
    higher = np.sign(tags[:, None] - tags[None, :])
    differ = (higher != 0).astype(np.float64)
    if not differ.any():
        return None
    right = (np.sign(scale_values[:, None] - scale_values[None, :]) == higher) * differ
    draws = [(times @ right @ times) / max(times @ differ @ times, 1.0) for times in draw_photographs(photos)]
    return with_interval(right.sum() / differ.sum(), draws, len(tags))


def rate_both(untouched: NDArray[np.bool_], manipulated: NDArray[np.bool_], photos: NDArray[np.generic]) -> Rate:
    """Return the mean of the shares rightly told among the same faces `untouched` and `manipulated`."""
    both = (untouched.astype(np.float64) + manipulated) / 2
    return with_interval(both.mean(), [times @ both / times.sum() for times in draw_photographs(photos)], len(both))


def draw_photographs(photos: NDArray[np.generic]) -> list[Matrix]:
    """Return, for each drawn sample of photographs, how often each face is in it."""
    rng = np.random.default_rng(2024)
    names, places = np.unique(photos, return_inverse=True)
    count = len(names)
    drawn = (np.bincount(rng.integers(count, size=count), minlength=count) for _ in range(BOOTSTRAPS))
    return [times[places].astype(np.float64) for times in drawn]


def with_interval(value: float, draws: list[float], count: int) -> Rate:
    """Return a rate with the percentile interval of its bootstrap `draws`."""
    low, high = np.quantile(draws, [0.025, 0.975])
    return Rate(float(value), float(low), float(high), count)
