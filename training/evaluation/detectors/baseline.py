"""The files of a trained detector: `RUN/baselines/NAME/weights.safetensors` and `baseline.json`.

Such weights are trained on generated pictures. They are for comparisons and must never enter a bundle, which knows
photographs only. Frozen parameters that come from a file of the design are not stored; the file is needed again.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from scorer.files import replace_file
from training.evaluation.detectors.base import Design, DetectorNetwork, NetworkDetector, WeightsAbsent
from training.evaluation.detectors.catalogue import find_design
from training.evaluation.features.weights import WrongWeights, load_strictly
from training.pretext.checkpoints import OPTIMISER, write_tensors

FOLDER, WEIGHTS, LAST, FACTS = "baselines", "weights.safetensors", "last.safetensors", "baseline.json"
NOTE = "baseline"  # key of the note in the files of weights
STATEMENT = (
    "These weights are trained on generated pictures: they are for comparisons and must never enter a bundle, whose "
    "method knows photographs only."
)


def find_folder(run: Path, name: str) -> Path:
    """Return the folder of the baseline `name`."""
    return run / FOLDER / name


def check_given(design: Design, files: Mapping[str, Path]) -> None:
    """Check the files with which a network is built.

    Raises:
        ValueError: the design has no file of that name.
        WeightsAbsent: one is missing.
    """
    described = {**design.files, **design.initial_files}
    for name, path in files.items():
        if name not in described:
            message = f"{design.title} has no file {name!r}; it has {', '.join(described) or 'none'}"
            raise ValueError(message)
        if not path.is_file():
            message = f"{design.title} needs a file that is not there ({path} does not exist): {described[name]}"
            raise WeightsAbsent(message)
    design.check_files(files)


def require_published(design: Design, path: Path) -> None:
    """Raise `WeightsAbsent` if there is no file of published weights."""
    if not path.is_file():
        message = f"{path} does not exist: {design.published_at}"
        raise WeightsAbsent(message)


def load_published(design: Design, network: DetectorNetwork, path: Path) -> None:
    """Load a published file, or the weights of another baseline of the same design, into the network.

    Raises:
        WeightsAbsent: there is no file.
        WrongWeights: a key differs.
    """
    require_published(design, path)
    if is_baseline(path):
        load_trained(design, network, path)
    else:
        design.load(network, path)


def is_baseline(path: Path) -> bool:
    """Return whether a file contains the weights of a baseline."""
    try:
        with safe_open(path, framework="pt") as file:
            return NOTE in (file.metadata() or {})
    except SafetensorError:
        return False


def list_trained(design: Design, network: DetectorNetwork) -> dict[str, Tensor]:
    """Return the state that no file of the design contains."""
    fixed = {name for name, values in network.named_parameters() if not values.requires_grad} if design.files else ()
    return {name: values for name, values in network.state_dict().items() if name not in fixed}


def load_trained(design: Design, network: DetectorNetwork, path: Path) -> None:
    """Load the weights of a baseline, or of its training's last state.

    Raises:
        WrongWeights: they are of another network.
    """
    state = {name: values for name, values in load_file(path).items() if not name.startswith(OPTIMISER)}
    trained = list_trained(design, network)
    fixed = {name: values for name, values in network.state_dict().items() if name not in trained}
    load_strictly(network, fixed | state, path, f"a baseline of {design.title}")


def describe_files(files: Mapping[str, Path]) -> dict[str, dict[str, str]]:
    """Return path and digest of each file."""
    described = {}
    for name, path in files.items():
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        described[name] = {"path": str(path.resolve()), "sha256": digest}
    return described


def describe_design(design: Design, network: DetectorNetwork) -> dict[str, Any]:
    """Return what `baseline.json` states about the detector."""
    return {
        "detector": design.name,
        "title": design.title,
        "publication": design.publication,
        "parameters": sum(values.numel() for values in network.parameters()),
        "published_parameters": design.parameters,
        "statement": STATEMENT,
    }


def write_weights(folder: Path, design: Design, network: DetectorNetwork) -> None:
    """Write the weights of the baseline."""
    write_tensors(folder / WEIGHTS, list_trained(design, network), {NOTE: {"detector": design.name}})


def write_facts(folder: Path, facts: Mapping[str, Any]) -> None:
    """Write `baseline.json`."""
    replace_file(folder / FACTS, (json.dumps(facts, indent=1) + "\n").encode())


def load_baseline(run: Path, name: str, files: Mapping[str, Path] | None = None) -> NetworkDetector:
    """Return the detector that `unlensed-train baseline NAME RUN` trained or loaded.

    Args:
        run: the run folder.
        name: of the detector.
        files: the design's files by name; default: where they were then.

    Raises:
        WeightsAbsent: the baseline is not trained, or one of `files` is not there.
        WrongWeights: a file is another one than in the training.
    """
    return open_baseline(find_design(name), run, files)


def open_baseline(design: Design, run: Path, files: Mapping[str, Path] | None = None) -> NetworkDetector:
    """Return the detector of a design; see `load_baseline`."""
    folder = find_folder(run, design.name)
    if not (folder / FACTS).is_file():
        message = (
            f"{folder} has no finished baseline: run `unlensed-train baseline {design.name} {run}` with --real and "
            f"--generated, or with --weights; {design.published_at}"
        )
        raise WeightsAbsent(message)
    recorded = json.loads((folder / FACTS).read_text(encoding="utf-8"))["files"]
    given = {key: Path(value["path"]) for key, value in recorded.items() if key in design.files}
    given.update(files or {})
    check_given(design, given)
    for key, found in describe_files({key: given[key] for key in design.files}).items():
        if found["sha256"] != recorded[key]["sha256"]:
            message = f"{given[key]} is another file than the one with which {folder} was made: give {key}=PATH"
            raise WrongWeights(message)
    network = design.build(given)
    load_trained(design, network, folder / WEIGHTS)
    return NetworkDetector(design, network)


def import_baseline(design: Design, weights: Path, run: Path, files: Mapping[str, Path]) -> dict[str, Any]:
    """Write published weights as the baseline of a run; return the facts.

    Raises:
        ValueError: the run has a training of this detector.
        WeightsAbsent: a file is missing.
        WrongWeights: a key differs.
    """
    folder = find_folder(run, design.name)
    if (folder / LAST).exists():
        message = f"{folder} contains a training: use another run folder, or delete this folder"
        raise ValueError(message)
    check_given(design, files)
    require_published(design, weights)
    with torch.random.fork_rng(devices=[]):
        network = design.build(files)
    load_published(design, network, weights)
    facts = describe_design(design, network) | {
        "weights": f"published: {design.published_at}",
        "files": describe_files({**files, "weights": weights}),
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_weights(folder, design, network)
    write_facts(folder, facts)
    return facts
