"""Checkpoints as safetensors: arrays and a line of text, nothing that could run."""

import json
from dataclasses import asdict
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from training.recipes import Recipe


def save_checkpoint(path: Path, network: nn.Module, recipe: Recipe, facts: dict[str, float]) -> None:
    """Write the network's state with the recipe and the epoch's figures; the rename makes it whole or absent."""
    partial = path.with_suffix(".partial")
    text = {"recipe": json.dumps(asdict(recipe)), "facts": json.dumps(facts)}
    save_file({name: values.contiguous() for name, values in network.state_dict().items()}, partial, metadata=text)
    partial.replace(path)


def load_checkpoint(path: Path, network: nn.Module) -> dict[str, float]:
    """Load the state into `network`, strictly, and return the recorded figures.

    Raises:
        RuntimeError: the checkpoint belongs to another network; the message names the keys.
    """
    network.load_state_dict(load_file(path), strict=True)
    with safe_open(path, framework="pt") as file:
        facts: dict[str, float] = json.loads(file.metadata()["facts"])
    return facts
