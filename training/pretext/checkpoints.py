"""Checkpoints as safetensors: arrays and lines of text, nothing that could run; whole or absent on the disk."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from scorer.files import replace_file
from training.recipes import Recipe

OPTIMISER = "optimiser."


@dataclass(slots=True)
class TrainingPosition:
    """Where a training stands. With the tensors it is all that a resume needs: every draw follows from it.

    Attributes:
        faces: training faces; another number would be drawn in another order.
        epoch: finished epochs.
        step: finished steps of the epoch after those.
        sums: losses of these steps, added up.
        highest: best figure of merit so far; None before the first epoch ends.
        seconds: time trained so far.
    """

    faces: int
    epoch: int = 0
    step: int = 0
    sums: list[float] = field(default_factory=list)
    highest: float | None = None
    seconds: float = 0.0


def save_checkpoint(path: Path, network: nn.Module, recipe: Recipe, facts: dict[str, float]) -> None:
    """Write the network's state with the recipe and the epoch's figures."""
    write_whole(path, network.state_dict(), {"recipe": recipe, "facts": facts})


def save_state(
    path: Path, network: nn.Module, optimiser: torch.optim.Optimizer, recipe: Recipe, position: TrainingPosition
) -> None:
    """Write all that a training needs to go on as if it had never stopped."""
    state = network.state_dict()
    for name, parameter in network.named_parameters():
        for key, values in optimiser.state.get(parameter, {}).items():
            state[f"{OPTIMISER}{name}.{key}"] = values
    write_whole(path, state, {"recipe": recipe, "position": position})


def write_whole(path: Path, state: dict[str, Tensor], notes: dict[str, object]) -> None:
    """Write tensors and notes to `path`, whole or not at all.

    Raises:
        OSError: the disk is full or not writable; no partial file is left.
    """
    text = {
        name: json.dumps(asdict(note) if hasattr(note, "__dataclass_fields__") else note)  # type: ignore[call-overload]  # that attribute is what asdict asks for
        for name, note in notes.items()
    }
    replace_file(path, save({name: values.detach().cpu().contiguous() for name, values in state.items()}, text))


def load_checkpoint(path: Path, network: nn.Module) -> dict[str, float]:
    """Load the state into `network`, strictly, and return the recorded figures (none in `last.safetensors`).

    Raises:
        RuntimeError: the checkpoint belongs to another network; the message names the keys.
    """
    state = {name: values for name, values in load_file(path).items() if not name.startswith(OPTIMISER)}
    network.load_state_dict(state, strict=True)
    facts: dict[str, float] = read_notes(path).get("facts", {})
    return facts


def load_state(
    path: Path, network: nn.Module, optimiser: torch.optim.Optimizer, recipe: Recipe, faces: int
) -> TrainingPosition:
    """Load what `save_state` wrote and return where that training stood.

    Raises:
        ValueError: it was another recipe's training, one on other faces, or none that can go on.
    """
    notes = read_notes(path)
    if "position" not in notes:
        message = f"{path} holds weights but no interrupted training: start anew in another run folder"
        raise ValueError(message)
    position = TrainingPosition(**notes["position"])
    if notes["recipe"] != json.loads(json.dumps(asdict(recipe))):
        message = (
            f"{path} was trained by another recipe, or by other settings of {notes['recipe']['name']!r}: "
            "finish it with those, or start anew in another run folder"
        )
        raise ValueError(message)
    if position.faces != faces:
        message = (
            f"{path} was trained on {position.faces} faces and there are {faces} now: "
            f"restore them, or delete {path.name} to start anew"
        )
        raise ValueError(message)
    load_checkpoint(path, network)
    state = load_file(path)
    for name, parameter in network.named_parameters():
        prefix = f"{OPTIMISER}{name}."
        kept = {key.removeprefix(prefix): values for key, values in state.items() if key.startswith(prefix)}
        if kept:
            # Adam's moments take the parameter's device and memory format, its step counter the device alone.
            optimiser.state[parameter] = {
                key: torch.empty_like(parameter).copy_(values) if values.ndim else values.to(parameter.device)
                for key, values in kept.items()
            }
    return position


def read_notes(path: Path) -> dict[str, dict[str, Any]]:
    """Return the texts beside a checkpoint's tensors, parsed."""
    with safe_open(path, framework="pt") as file:
        return {name: json.loads(text) for name, text in (file.metadata() or {}).items()}
