"""The training loop: faces of the role `train` in, the best checkpoint on held-out sources out."""

import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import Progress, TimeRemainingColumn
from torch import Tensor

from ingest.spec import PreprocessSpec
from training.checkpoints import save_checkpoint
from training.data.exif import TAG_NAMES
from training.data.manipulations import FaceSampler, Manipulation, make_sampler
from training.data.shards import WIDE_SIZE, FaceSet
from training.network import PretextNetwork
from training.ranking import combine_losses, pair_indices
from training.recipes import OptimiserRule, Recipe

VALIDATION_BATCH, UNTAGGED_IN_VALIDATION = 64, 100


class TrainingDiverged(Exception):
    """The loss is no longer a number; the last good checkpoint stands."""


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Crops [M, S, S, 3] uint8, tags [M, 4], and 1 for each manipulated face, [M]."""

    crops: Tensor
    tags: Tensor
    manipulated: Tensor


def draw_batches(faces: FaceSet, sampler: FaceSampler, batch_size: int, rng: np.random.Generator) -> Iterator[Batch]:
    """Yield one epoch of batches in a new order, each face drawn afresh; a short last batch is dropped."""
    order = rng.permutation(len(faces))
    for start in range(0, len(order) - batch_size + 1, batch_size):
        rows = order[start : start + batch_size]
        yield draw_batch(faces, rows, [sampler.draw_kind(rng) for _ in rows], sampler, rng)


def draw_batch(
    faces: FaceSet,
    rows: NDArray[np.intp],
    kinds: list[Manipulation],
    sampler: FaceSampler,
    rng: np.random.Generator,
) -> Batch:
    """Return the faces of `rows`, each with its manipulation."""
    crops = [
        sampler.sample(faces.wide[row], faces.landmarks[row], kind, rng) for row, kind in zip(rows, kinds, strict=True)
    ]
    manipulated = [float(kind is not Manipulation.NONE) for kind in kinds]
    return Batch(
        torch.from_numpy(np.stack(crops)), torch.from_numpy(faces.tags[rows]).float(), torch.tensor(manipulated)
    )


def pick_validation(faces: FaceSet, seed: int) -> FaceSet:
    """Return all faces with a tag, to rank, and some without, which serve the manipulation figure only."""
    tagged = ~np.isnan(faces.tags).all(axis=1)
    others = np.random.default_rng(seed).permutation(np.flatnonzero(~tagged))[:UNTAGGED_IN_VALIDATION]
    return faces.select(np.sort(np.concatenate([np.flatnonzero(tagged), others])))


def fixed_batches(faces: FaceSet, sampler: FaceSampler, seed: int) -> list[Batch]:
    """Return each face once untouched and once manipulated, the same on every call: what epochs are compared on."""
    rng = np.random.default_rng(seed)
    kinds = [kind for kind in Manipulation if kind is not Manipulation.NONE]
    batches = []
    for start in range(0, len(faces), VALIDATION_BATCH):
        rows = np.arange(start, min(start + VALIDATION_BATCH, len(faces)))
        batches.append(draw_batch(faces, rows, [Manipulation.NONE] * len(rows), sampler, rng))
        batches.append(draw_batch(faces, rows, [kinds[row % len(kinds)] for row in rows], sampler, rng))
    return batches


def ranking_accuracy(scores_MT: Tensor, tags_MT: Tensor) -> dict[str, float]:
    """Return, by tag, the share of pairs with different tags that the scores order rightly; NaN without pairs."""
    first, second = pair_indices(len(scores_MT))
    difference, predicted = tags_MT[first] - tags_MT[second], scores_MT[first] - scores_MT[second]
    accuracy = {}
    for column, name in enumerate(TAG_NAMES):
        known = difference[:, column].abs() > 0  # NaN compares false
        right = (difference[known, column] > 0) == (predicted[known, column] > 0)
        accuracy[name] = float(right.float().mean()) if len(right) else float("nan")
    return accuracy


@torch.inference_mode()
def validate(network: PretextNetwork, batches: list[Batch]) -> dict[str, float]:
    """Return ranking accuracy by tag and manipulation accuracy, balanced between the classes."""
    network.eval()
    outputs = [network(batch.crops) for batch in batches]
    scores, logits = (torch.cat([output[part] for output in outputs]) for part in (0, 1))
    tags, manipulated = (
        torch.cat([batch.tags for batch in batches]),
        torch.cat([batch.manipulated for batch in batches]),
    )
    untouched = manipulated == 0
    right = (logits > 0) == (manipulated > 0)
    balanced = (right[untouched].float().mean() + right[~untouched].float().mean()) / 2
    return ranking_accuracy(scores[untouched], tags[untouched]) | {"manipulation": float(balanced)}


def figure_of_merit(figures: dict[str, float]) -> float:
    """Return the mean of the accuracies that exist: what chooses the checkpoint. No generated image has a say."""
    return float(np.nanmean(list(figures.values())))


def make_optimiser(network: PretextNetwork, rule: OptimiserRule) -> torch.optim.AdamW:
    """Return AdamW with the rule's two rates."""
    trunk = [
        value for name, value in network.named_parameters() if name.startswith("extractor.") and value.requires_grad
    ]
    heads = [value for name, value in network.named_parameters() if not name.startswith("extractor.")]
    return torch.optim.AdamW(
        [{"params": trunk, "lr": rule.backbone_rate}, {"params": heads, "lr": rule.head_rate}],
        weight_decay=rule.weight_decay,
    )


def train_extractor(network: PretextNetwork, train: FaceSet, held_out: FaceSet, recipe: Recipe, run: Path) -> Path:
    """Train and return the checkpoint with the best mean accuracy on the held-out sources.

    Writes `best.safetensors`, `last.safetensors` and one JSON line an epoch to `progress.jsonl` in `run`.

    Raises:
        TrainingDiverged: the loss became NaN or infinite.
    """
    torch.manual_seed(recipe.seed)
    rng = np.random.default_rng(recipe.seed)
    sampler = make_sampler(PreprocessSpec().size, WIDE_SIZE, recipe.augment, recipe.seed)
    validation = fixed_batches(pick_validation(held_out, recipe.seed), sampler, recipe.seed)
    optimiser = make_optimiser(network, recipe.optimiser)
    steps = recipe.epochs * (len(train) // recipe.batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks this overload
    best = run / "best.safetensors"
    highest = -1.0
    started = time.monotonic()
    with (
        Progress(*Progress.get_default_columns()[:3], TimeRemainingColumn(), transient=True) as progress,
        (run / "progress.jsonl").open("w") as log,
    ):
        bar = progress.add_task(f"training {recipe.name}", total=steps)
        for epoch in range(1, recipe.epochs + 1):
            network.train()
            losses = []
            for batch in draw_batches(train, sampler, recipe.batch_size, rng):
                loss = combine_losses(network(batch.crops), batch.tags, batch.manipulated, recipe.losses)
                if not torch.isfinite(loss.total):
                    message = f"the loss is {float(loss.total)} in epoch {epoch}; {best} holds the last good weights"
                    raise TrainingDiverged(message)
                optimiser.zero_grad()
                loss.total.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
                optimiser.step()
                schedule.step()
                losses.append([float(loss.total.detach()), *loss.ranking.tolist(), float(loss.manipulation)])
                progress.advance(bar)
            figures = validate(network, validation)
            names = ("loss", *(f"loss_{name}" for name in TAG_NAMES), "loss_manipulation")
            facts = dict(zip(names, np.mean(losses, axis=0).round(4).tolist(), strict=True)) | figures
            facts |= {"epoch": float(epoch), "merit": figure_of_merit(figures), "seconds": time.monotonic() - started}
            log.write(json.dumps(facts) + "\n")
            log.flush()
            progress.console.print({name: round(value, 3) for name, value in facts.items()})
            save_checkpoint(run / "last.safetensors", network, recipe, facts)
            if facts["merit"] > highest:
                highest = facts["merit"]
                save_checkpoint(best, network, recipe, facts)
    (run / "recipe.json").write_text(json.dumps(asdict(recipe), indent=1) + "\n")
    return best
