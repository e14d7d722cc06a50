"""The heads that rank EXIF tags, as a bundle carries them: on the features of its engine, with their skill."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ingest.exif import TAG_NAMES
from scorer.bundle.arrays import write_arrays
from scorer.bundle.exif_heads import EXIF_HEADS, NO_LIMIT, QUANTILES, Matrix, rank_among
from scorer.decide import flagged_rank, photographs_needed
from training.data.shards import FaceSet
from training.evaluation.operating_points import name_photographs
from training.evaluation.pretext import measure_ordering
from training.export.head import read_head
from training.pretext.checkpoints import load_checkpoint
from training.pretext.network import build_network
from training.recipes import Recipe
from training.run_recipe import CHECKPOINT
from training.steps import HEAD, embed_plain

MAX_PHOTOGRAPHS = 2000  # the pairs of more would need gigabytes
CONTRADICTION_RATE = 0.01  # of photographs, for each tag
_CARD = """
## Heads that rank EXIF tags
For explanations. Share of pairs of photographs of the role calibrate that a head orders rightly; one whose 95 %
interval, by source, does not lie above 0.5 is not used.

"""


def choose_photographs(faces: FaceSet, recipe: Recipe) -> NDArray[np.intp]:
    """Return the row of one face of each tagged photograph; none if no tag differs, or the recipe ranks none."""
    tagged = np.flatnonzero(~np.isnan(faces.tags).all(axis=1))
    _, first = np.unique(name_photographs(faces.sources[tagged], faces.photos[tagged]), return_index=True)
    rows = np.random.default_rng(recipe.seed).permutation(tagged[first])[:MAX_PHOTOGRAPHS]
    differ = any(len(np.unique(tag[~np.isnan(tag)])) > 1 for tag in faces.tags[rows].T)
    return np.sort(rows) if recipe.losses.ranking_weight and differ else rows[:0]


def write_exif_heads(folder: Path, weights_TD: Matrix, features_ND: NDArray[np.floating], faces: FaceSet) -> str:
    """Write heads into the bundle in `folder`, measured on a face of N photographs each; return the card's section."""
    sources = faces.sources if len(np.unique(faces.sources)) > 1 else faces.photos
    arrays = describe_heads(weights_TD, features_ND, faces.tags, sources)
    write_arrays(folder / EXIF_HEADS, arrays)
    figures = zip(TAG_NAMES, arrays["skill"].tolist(), arrays["photographs"].tolist(), strict=True)
    return _CARD + "".join(
        f"- {name}: {value:.2f} ({low:.2f} to {high:.2f}), {photographs:.0f} photographs\n"
        for name, (value, low, high), photographs in figures
    )


def find_weights(run: Path, recipe: Recipe, threads: int) -> Matrix:
    """Return the weights [T, D] of the trained heads for the features of the engine.

    With a last layer, the engine gives fewer numbers than the heads were trained on: the weights are then the
    least-squares ones on the faces that this layer was fitted on.
    """
    network = build_network(recipe)
    load_checkpoint(run / CHECKPOINT, network)
    state = network.state_dict()
    weights: Matrix = torch.cat([state[f"heads.{name}.weight"] for name in TAG_NAMES]).double().numpy()
    if isinstance(network.centre, torch.nn.BatchNorm1d):
        weights /= np.sqrt(state["centre.running_var"].double().numpy() + network.centre.eps)
    if recipe.head is None:
        return weights
    features = embed_plain(network.extractor, run, recipe, threads).astype(np.float64)
    features -= features.mean(axis=0)
    components = features @ read_head(run / HEAD)[0]
    return np.asarray(np.linalg.lstsq(components, features @ weights.T)[0].T, np.float64)


def describe_heads(
    weights_TD: Matrix, features_ND: NDArray[np.floating], tags_NT: Matrix, sources_N: NDArray[np.str_]
) -> dict[str, Matrix]:
    """Return the arrays of `ExifHeads`; tags are NaN where absent, and intervals resample whole sources."""
    count, levels = len(weights_TD), np.linspace(0, 1, QUANTILES)
    arrays: dict[str, Matrix] = {
        "weights": weights_TD.astype(np.float32),
        "scores": np.zeros((count, QUANTILES)),
        "tags": np.zeros((count, QUANTILES)),
        "skill": np.tile([0.5, 0.0, 1.0], (count, 1)),
        "photographs": np.zeros(count),
        "limits": np.full(count, NO_LIMIT),
    }
    for row, weights in enumerate(weights_TD):
        known = ~np.isnan(tags_NT[:, row])
        predicted, stated = features_ND[known] @ weights, tags_NT[known, row]
        rate = measure_ordering(predicted, stated, sources_N[known])
        if rate is None:
            continue
        arrays["skill"][row], arrays["photographs"][row] = (rate.value, rate.low, rate.high), rate.count
        differences = np.zeros(rate.count)
        for name, values, sign in (("scores", predicted, 1), ("tags", stated, -1)):
            arrays[name][row] = np.quantile(values, levels, method="inverted_cdf")
            differences += sign * rank_among(values, arrays[name][row])
        if rate.count >= photographs_needed(CONTRADICTION_RATE):
            rank = flagged_rank(rate.count, CONTRADICTION_RATE)
            arrays["limits"][row] = np.sort(np.abs(differences))[-rank]
    return arrays
