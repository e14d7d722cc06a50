"""The start of EM: responsibilities from k-means++ seeds.

Shape suffixes: N faces, D features, K components.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from scorer.fitting.em_shared import blocks


def seed_responsibilities(
    features_ND: NDArray[np.floating], components: int, variance: float, seed: int
) -> NDArray[np.float64]:
    """Return [N, K] responsibilities under spherical Gaussians of `variance` around k-means++ seeds (Arthur, 2007).

    Scikit-learn's `init_params="k-means++"` with `random_state=seed` chooses the same seeds and, with full or diagonal
    covariances, has these responsibilities after its first step.

    Raises:
        ValueError: there are fewer faces, or fewer distinct faces, than components.
    """
    if len(features_ND) < components:
        message = f"{components} components need at least as many faces, not {len(features_ND)}: fit fewer components"
        raise ValueError(message)
    seeds = features_ND[draw_seeds(features_ND, components, seed)]
    distinct = len(np.unique(seeds, axis=0))
    if distinct < components:
        message = f"only {distinct} distinct faces for {components} components: check for copies of one face"
        raise ValueError(message)
    centre = seeds.mean(axis=0, dtype=np.float64)
    seeds = seeds - centre
    responsibilities = np.empty((len(features_ND), components))
    for block in blocks(len(features_ND)):
        # |x - s|^2 without |x|^2, which is equal for all components.
        distances = (seeds**2).sum(axis=1) - 2 * (features_ND[block] - centre) @ seeds.T
        distances -= distances.min(axis=1, keepdims=True)
        shares = np.exp(-distances / (2 * variance)) if variance else (distances == 0).astype(np.float64)
        responsibilities[block] = shares / shares.sum(axis=1, keepdims=True)
    return responsibilities


def draw_seeds(features_ND: NDArray[np.floating], components: int, seed: int) -> NDArray[np.intp]:
    """Return the rows [K] of the seeds by greedy k-means++ with the draws of scikit-learn's `kmeans_plusplus`.

    Each further seed is the best of a few candidates, which are drawn in proportion to the squared distance from the
    nearest seed. scikit-learn itself is not imported: the scorer has no package that reads pickles.
    """
    rng, count = np.random.RandomState(seed), len(features_ND)
    rows = [int(rng.choice(count, p=np.full(count, 1 / count)))]
    nearest = _squared_distances(features_ND, rows)[0]
    for _ in range(1, components):
        draws = rng.uniform(size=2 + int(math.log(components))) * nearest.sum()
        candidates = np.minimum(np.searchsorted(np.cumsum(nearest), draws), count - 1)
        distances = np.minimum(nearest, _squared_distances(features_ND, candidates))
        best = int(distances.sum(axis=1).argmin())
        rows.append(int(candidates[best]))
        nearest = distances[best]
    return np.array(rows)


def _squared_distances(
    features_ND: NDArray[np.floating], rows: Sequence[int] | NDArray[np.intp]
) -> NDArray[np.float64]:
    """Return the squared distances [R, N] of all faces from those of `rows`."""
    distances = np.empty((len(rows), len(features_ND)))
    for number, row in enumerate(rows):
        for block in blocks(len(features_ND)):
            difference = features_ND[block].astype(np.float64) - features_ND[row]
            distances[number, block] = np.einsum("nd,nd->n", difference, difference)
    return distances
