"""The start of EM: responsibilities from k-means++ seeds.

Shape suffixes: N faces, D features, K components.
"""

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import kmeans_plusplus

from training.mixture.em_shared import blocks


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
    seeds, _ = kmeans_plusplus(features_ND, components, random_state=seed)
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
