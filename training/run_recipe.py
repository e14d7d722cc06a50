"""Whether the recipe of a command is that of the run folder: of its faces, and of its training."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ingest.spec import PreprocessSpec
from scorer.errors import UsageError
from training.data.shards import SETTINGS
from training.recipes import PAPER_FEATURES, Recipe

CHECKPOINT = "best.safetensors"


def read_cut(run: Path) -> PreprocessSpec:
    """Return how the faces of `run` were cut; the default if `prepare` did not record it."""
    path = run / SETTINGS
    return PreprocessSpec.from_json(_read(path)["preprocess"]) if path.is_file() else PreprocessSpec()


def check_cut(run: Path, recipe: Recipe) -> None:
    """Compare the settings with which the faces of `run` were cut with those of `recipe`.

    Raises:
        UsageError: they differ.
    """
    path = run / SETTINGS
    if not path.is_file():
        return
    cut, wanted = _read(path)["preprocess"], _as_json(recipe)["preprocess"]
    if differing := [name for name in wanted if cut.get(name) != wanted[name]]:
        message = (
            f"the faces in {run} were cut with another {' and '.join(differing)} than the recipe {recipe.name} states: "
            f"run `unlensed-train prepare` with --recipe {recipe.name} into another run folder"
        )
        raise UsageError(message)


def check_recipe(run: Path, recipe: Recipe) -> None:
    """Compare `recipe` with the one that `run` was prepared and trained with.

    Raises:
        FileNotFoundError: `train` has not been run.
        UsageError: they differ.
    """
    if not (run / CHECKPOINT).is_file():
        message = f"{run} has no {CHECKPOINT}: run `unlensed-train train {run} --recipe {recipe.name}` first"
        raise FileNotFoundError(message)
    trained, wanted = read_recipe(run), _as_json(recipe)
    if trained and trained["name"] != recipe.name:
        message = (
            f"{run} was trained with the recipe {trained['name']}, not {recipe.name}: use --recipe {trained['name']}"
        )
        raise UsageError(message)
    trained = {"feature_size": PAPER_FEATURES} | trained if trained else {}  # the size of runs that do not state it
    differing = [
        name for name in ("backbone", "feature_size", "preprocess") if trained and trained[name] != wanted[name]
    ]
    if differing:
        message = (
            f"{run} was trained with another {' and '.join(differing)} than the recipe {recipe.name} has now: "
            "train again in another run folder"
        )
        raise UsageError(message)
    check_cut(run, recipe)


def read_recipe(run: Path) -> dict[str, Any]:
    """Return the settings that `run` was trained with; empty if its training did not write them."""
    path = run / "recipe.json"
    return _read(path) if path.is_file() else {}


def _as_json(recipe: Recipe) -> dict[str, Any]:
    fields: dict[str, Any] = json.loads(json.dumps(asdict(recipe)))
    return fields


def _read(path: Path) -> dict[str, Any]:
    fields: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return fields
