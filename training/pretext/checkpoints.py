"""Checkpoints as safetensors: arrays and text, no code. A file is written completely or not at all."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from scorer.files import replace_file
from training.pretext.network import CLASSIFIERS, PretextNetwork
from training.recipes import Recipe

OPTIMISER = "optimiser."


@dataclass(slots=True)
class TrainingPosition:
    """The state of a training beside its tensors. It determines all further random choices.

    Attributes:
        faces: number of training faces; another number would change their order.
        epoch: number of finished epochs.
        step: number of finished steps of the current epoch.
        sums: sums of the losses of these steps.
        highest: highest figure of merit so far; None before the end of the first epoch.
        seconds: training time so far.
    """

    faces: int
    epoch: int = 0
    step: int = 0
    sums: list[float] = field(default_factory=list)
    highest: float | None = None
    seconds: float = 0.0


def save_checkpoint(path: Path, network: PretextNetwork, recipe: Recipe, facts: dict[str, float]) -> None:
    """Write the network's state with the recipe and the epoch's metrics."""
    write_tensors(path, network.state_dict(), {"recipe": recipe, "facts": facts, "classes": network.classes})


def save_state(
    path: Path, network: PretextNetwork, optimiser: torch.optim.Optimizer, recipe: Recipe, position: TrainingPosition
) -> None:
    """Write the complete state of a training, from which it can resume without any difference."""
    state = network.state_dict() | list_moments(network, optimiser)
    write_tensors(path, state, {"recipe": recipe, "position": position, "classes": network.classes})


def list_moments(network: nn.Module, optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the optimiser's state of each parameter by the parameter's name."""
    return {
        f"{OPTIMISER}{name}.{key}": values
        for name, parameter in network.named_parameters()
        for key, values in optimiser.state.get(parameter, {}).items()
        if isinstance(values, Tensor)  # SGD without momentum has None
    }


def restore_moments(network: nn.Module, optimiser: torch.optim.Optimizer, state: Mapping[str, Tensor]) -> None:
    """Give the optimiser the state that `list_moments` returned."""
    for name, parameter in network.named_parameters():
        prefix = f"{OPTIMISER}{name}."
        kept = {key.removeprefix(prefix): values for key, values in state.items() if key.startswith(prefix)}
        if kept:
            # Moments get the parameter's device and memory format, Adam's step counter the device only.
            optimiser.state[parameter] = {
                key: torch.empty_like(parameter).copy_(values) if values.ndim else values.to(parameter.device)
                for key, values in kept.items()
            }


def write_tensors(path: Path, state: dict[str, Tensor], notes: dict[str, object]) -> None:
    """Write tensors and notes to `path`, completely or not at all.

    Raises:
        OSError: the disk is full or not writable; no partial file remains.
    """
    text = {
        name: json.dumps(asdict(note) if hasattr(note, "__dataclass_fields__") else note)  # type: ignore[call-overload]  # asdict checks for this attribute
        for name, note in notes.items()
    }
    replace_file(path, save({name: values.detach().cpu().contiguous() for name, values in state.items()}, text))


def load_checkpoint(path: Path, network: PretextNetwork) -> dict[str, float]:
    """Load the state into `network`, strictly, and return the epoch's metrics (empty for `last.safetensors`).

    A network without classifiers, which only training needs, does not load those of the checkpoint.

    Raises:
        ValueError: the checkpoint belongs to another network.
    """
    left = OPTIMISER if network.classes else (OPTIMISER, CLASSIFIERS)
    state = {name: values for name, values in load_file(path).items() if not name.startswith(left)}
    try:
        network.load_state_dict(state, strict=True)
    except RuntimeError as error:
        message = f"{path} belongs to another network than that of the recipe: use the recipe that it was trained with"
        raise ValueError(message) from error
    facts: dict[str, float] = read_notes(path).get("facts", {})
    return facts


def load_state(
    path: Path, network: PretextNetwork, optimiser: torch.optim.Optimizer, recipe: Recipe, faces: int
) -> TrainingPosition:
    """Load what `save_state` wrote and return the position of that training.

    Raises:
        ValueError: the training had another recipe, other faces or other classes, or the file is no training state.
    """
    notes = read_notes(path)
    if "position" not in notes:
        message = f"{path} contains weights but no training state: start a new training in another run folder"
        raise ValueError(message)
    position = TrainingPosition(**notes["position"])
    before, now = notes["recipe"], json.loads(json.dumps(asdict(recipe)))
    if differing := [name for name in now if before.get(name) != now[name]]:
        message = (
            f"{path} was trained with the recipe {before['name']}, whose settings {', '.join(differing)} differ: "
            "finish it with those, or start a new training in another run folder"
        )
        raise ValueError(message)
    if position.faces != faces:
        message = (
            f"{path} was trained on {position.faces} faces and there are {faces} now: "
            f"restore the faces, or delete {path.name} to start a new training"
        )
        raise ValueError(message)
    if notes.get("classes", {}) != {task: list(classes) for task, classes in network.classes.items()}:
        message = (
            f"{path} was trained to tell other cameras apart than the {faces} faces have now: "
            f"restore the faces, or delete {path.name} to start a new training"
        )
        raise ValueError(message)
    load_checkpoint(path, network)
    restore_moments(network, optimiser, load_file(path))
    return position


def read_notes(path: Path) -> dict[str, dict[str, Any]]:
    """Return the parsed notes of a checkpoint."""
    with safe_open(path, framework="pt") as file:
        return {name: json.loads(text) for name, text in (file.metadata() or {}).items()}


def describe_initial(path: Path | None) -> dict[str, str]:
    """Return the file, the digest and, if the file states it, the origin of initial weights; empty without a file.

    Files of `import` state their origin and licence, and checkpoints of this project state their recipe.
    """
    if path is None:
        return {}
    with path.open("rb") as file:
        facts = {"file": path.name, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
    with safe_open(path, framework="pt") as tensors:
        notes = tensors.metadata() or {}
    if "imported" in notes:
        imported = json.loads(notes["imported"])
        facts["origin"] = f"imported from a checkpoint of the kind {imported['kind']}: {imported['licence']}"
    elif "recipe" in notes:
        facts["origin"] = f"a checkpoint of the recipe {json.loads(notes['recipe'])['name']}, under its terms"
    return facts
