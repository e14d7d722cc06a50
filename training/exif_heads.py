"""The heads that rank EXIF tags, as a bundle carries them: on the features of its engine, with their skill."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ingest.exif import TAG_NAMES
from scorer.bundle.arrays import write_arrays
from scorer.bundle.exif_heads import EXIF_HEADS, NO_LIMIT, QUANTILES, rank_among
from scorer.decide import flagged_rank, photographs_needed
from training.data.shards import FaceSet
from training.evaluation.operating_points import name_photographs
from training.evaluation.pretext import measure_ordering
from training.export.features import extract_features
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
For explanations: the share of pairs of photographs of the role calibrate that a head orders rightly. One whose interval
does not lie above 0.5, which is chance, is not used.

| tag | pairs ordered rightly (95 % interval by source) | photographs | sources |
|---|---|---|---|
"""
Matrix = NDArray[np.float64]


def write_exif_heads(  # noqa: PLR0913, PLR0917 - the run, and what an export has read of it
    folder: Path, run: Path, recipe: Recipe, engine: Path, faces: FaceSet, threads: int
) -> str:
    """Write the trained heads into the bundle in `folder`, unless `faces` cannot measure one of them.

    Args:
        folder: the bundle.
        run: of the training.
        recipe: of the run.
        engine: of the bundle.
        faces: the role `calibrate`.
        threads: of the engine.

    Returns:
        A section of the model card; empty if nothing was written.
    """
    rows = choose_photographs(faces, recipe.seed)
    tags_NT = faces.tags[rows]
    if not recipe.losses.ranking_weight or not any(len(np.unique(tag[~np.isnan(tag)])) > 1 for tag in tags_NT.T):
        return ""
    features = extract_features(engine, faces.crops[rows], threads, recipe.output_size)
    sources = faces.sources if len(np.unique(faces.sources)) > 1 else faces.photos
    arrays = describe_heads(find_weights(run, recipe, threads), features, tags_NT, sources[rows])
    write_arrays(folder / EXIF_HEADS, arrays)
    rows_of_card = zip(TAG_NAMES, arrays["skill"].tolist(), arrays["counts"].tolist(), strict=True)
    return _CARD + "".join(
        f"| {name} | {value:.2f} ({low:.2f} to {high:.2f}) | {photographs:.0f} | {groups:.0f} |\n"
        for name, (value, low, high), (photographs, groups) in rows_of_card
    )


def choose_photographs(faces: FaceSet, seed: int) -> NDArray[np.intp]:
    """Return the row of one face of each photograph with a tag, of at most `MAX_PHOTOGRAPHS` drawn ones."""
    tagged = np.flatnonzero(~np.isnan(faces.tags).all(axis=1))
    _, first = np.unique(name_photographs(faces.sources[tagged], faces.photos[tagged]), return_index=True)
    return np.sort(np.random.default_rng(seed).permutation(tagged[first])[:MAX_PHOTOGRAPHS])


def find_weights(run: Path, recipe: Recipe, threads: int) -> Matrix:
    """Return the weights [T, D] of the trained heads for the features of the engine.

    With a last layer, the engine gives fewer numbers than the heads were trained on: the weights are then the
    least-squares ones of the roles that this layer was fitted on.
    """
    network = build_network(recipe)
    load_checkpoint(run / CHECKPOINT, network)
    state = network.heads.state_dict()
    weights: Matrix = torch.cat([state[f"{name}.weight"] for name in TAG_NAMES]).double().numpy()
    if isinstance(network.centre, torch.nn.BatchNorm1d) and network.centre.running_var is not None:
        weights /= np.sqrt(network.centre.running_var.double().numpy() + network.centre.eps)
    if recipe.head is None:
        return weights
    matrix, _ = read_head(run / HEAD)
    features = embed_plain(network.extractor, run, recipe, threads).astype(np.float64)
    features -= features.mean(axis=0)
    return np.asarray(np.linalg.lstsq(features @ matrix, features @ weights.T)[0].T, np.float64)


def describe_heads(
    weights_TD: Matrix, features_ND: NDArray[np.floating], tags_NT: Matrix, groups_N: NDArray[np.str_]
) -> dict[str, NDArray[np.floating]]:
    """Return the arrays of `scorer.bundle.exif_heads`, measured on one face of each of N photographs.

    Args:
        weights_TD: of the heads.
        features_ND: by the bundle's engine.
        tags_NT: NaN where absent.
        groups_N: the source of each photograph; intervals resample whole sources.
    """
    scores, tags = np.zeros((2, len(weights_TD), QUANTILES))
    skill, counts = np.tile([0.5, 0.0, 1.0], (len(weights_TD), 1)), np.zeros((len(weights_TD), 2))
    limits = np.full(len(weights_TD), NO_LIMIT)
    levels = np.linspace(0, 1, QUANTILES)
    for row, weights in enumerate(weights_TD):
        known = ~np.isnan(tags_NT[:, row])
        predicted, stated = features_ND[known] @ weights, tags_NT[known, row]
        rate = measure_ordering(predicted, stated, groups_N[known])
        if rate is None:
            continue
        skill[row], counts[row] = (rate.value, rate.low, rate.high), (rate.count, len(np.unique(groups_N[known])))
        scores[row], tags[row] = (np.quantile(each, levels, method="inverted_cdf") for each in (predicted, stated))
        differ = np.sort(np.abs(rank_among(predicted, scores[row]) - rank_among(stated, tags[row])))[::-1]
        if len(differ) >= photographs_needed(CONTRADICTION_RATE):
            limits[row] = differ[flagged_rank(len(differ), CONTRADICTION_RATE) - 1]
    return {
        "weights": weights_TD.astype(np.float32),
        "scores": scores,
        "tags": tags,
        "skill": skill,
        "counts": counts,
        "limits": limits,
    }
