"""Convert published checkpoints to safetensors: the authors' extractor, and EXIF-as-language, its initial weights.

This converter runs offline. It reads pickles with torch's `weights_only` loader, in versions without known bypasses.
Both files are dictionaries of `epoch`, `model`, `optimizer` and `lr_sched`. Under `model.visual.`, `model` contains
torchvision's ResNet-50 with a last layer of 768 outputs. Every key is checked: the authors' own loader is not strict,
and a wrong prefix would silently keep the ImageNet weights.
"""

import pickle
import zipfile
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from torchvision.models import resnet50

from training.pretext.checkpoints import write_tensors
from training.pretext.network import MANIPULATION, describe_differences
from training.recipes import PAPER_FEATURES

Kind = Literal["anomalies", "exif-as-language"]

SAFE_TORCH = "2.10"
CHECKPOINT_KEYS = {"epoch", "model", "optimizer", "lr_sched"}
TRUNK = "model.visual."
# The release gives the label "et" the focal length and "fl" the exposure time, so `fc_et` learned to rank focal
# lengths and `fc_fl` exposure times. It reads `1/125` as 125, so the latter's scale values fall with the time.
HEADS = {
    "fc_face": MANIPULATION,
    "fc_iso": "iso",
    "fc_av": "f_number",
    "fc_et": "focal_length_mm",
    "fc_fl": "exposure_time_s",
}
CLIP_LEFTOVERS = (
    "model.positional_embedding",
    "model.logit_scale",
    "model.token_embedding.weight",
    "model.ln_final.weight",
    "model.ln_final.bias",
)
TEXT_TOWER = ("model.transformer.", "model.text_projection", "sink_temp")
LICENCE = {
    "anomalies": "CC BY-NC-SA 2.0, for research only (Zou, Yu, Zhan and Ma, 2025)",
    "exif-as-language": "as its publishers state (Zheng, Shrivastava and Owens, 2023)",
}


class ImportRefused(ValueError):
    """The file is not a checkpoint of the given kind; nothing was written."""


def import_checkpoint(path: Path, kind: Kind, out: Path) -> str:
    """Convert the checkpoint at `path` to the safetensors file `out`, for `load_initial`; return a summary.

    Args:
        path: the file as published.
        kind: "anomalies" for the authors' extractor with its five heads, "exif-as-language" for an extractor only.
        out: is written completely or not at all.

    Raises:
        ImportRefused: the file contains more than tensors, or keys or shapes differ from those of `kind`.
        FileNotFoundError: there is no such file.
    """
    checkpoint = read_checkpoint(path)
    model = checkpoint["model"]
    expected = list_shapes(kind)
    ignored = {name for name in model if is_leftover(name, kind)}
    given = set(model) - ignored
    wrong = {name for name in given & set(expected) if model[name].shape != expected[name]}
    if differ := describe_differences(set(expected) - given, given - set(expected), wrong):
        wrapped = any(name.startswith("module.") for name in given)
        hint = (
            "; it was saved from a DataParallel module: remove the prefix `module.` from its keys first"
            if wrapped
            else ""
        )
        message = f"{path} is not a checkpoint of {kind}: {differ}{hint}"
        raise ImportRefused(message)
    weights = {rename_array(name): to_float32(model[name]) for name in expected}
    if broken := [name for name, values in weights.items() if not values.isfinite().all()]:
        message = f"{path} contains a NaN or infinite weight in {', '.join(broken[:3])}: download it again"
        raise ImportRefused(message)
    facts = {"kind": kind, "epoch": str(checkpoint["epoch"]), "licence": LICENCE[kind]}
    write_tensors(out, weights, {"imported": facts})
    return f"{out}: {len(weights)} arrays of epoch {facts['epoch']}, {len(ignored)} left out ({facts['licence']})"


def load_arrays(path: Path) -> object:
    """Return the content of a torch file; arrays are memory-mapped if the format allows it, and no code is run.

    Raises:
        ImportRefused: this version of torch is unsafe (CVE-2025-32434, CVE-2026-24747), or the file is damaged or
            contains more than arrays.
        FileNotFoundError: there is no such file.
    """
    if torch.__version__ < SAFE_TORCH:
        message = (
            f"the safe loader of torch {torch.__version__} has known bypasses: read {path} with {SAFE_TORCH} or later"
        )
        raise ImportRefused(message)
    with path.open("rb") as file:
        mappable = zipfile.is_zipfile(file)
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mappable)
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError, ValueError) as error:
        message = f"{path} is damaged or contains something other than tensors: {first_line(error)}"
        raise ImportRefused(message) from error


def read_checkpoint(path: Path) -> dict[str, dict[str, Tensor]]:
    """Return the top level of a checkpoint.

    Raises:
        ImportRefused: as `load_arrays`, or the file is not a dictionary of the expected parts.
    """
    content = load_arrays(path)
    if not isinstance(content, dict) or set(content) != CHECKPOINT_KEYS:
        found = set(content) if isinstance(content, dict) else set()
        differ = describe_differences(CHECKPOINT_KEYS - found, {str(name) for name in found - CHECKPOINT_KEYS}, set())
        message = f"{path} is not a dictionary of {', '.join(sorted(CHECKPOINT_KEYS))}: {differ}"
        raise ImportRefused(message)
    model = content["model"]
    if not isinstance(model, dict) or not all(isinstance(values, Tensor) for values in model.values()):
        message = f"{path} contains something other than arrays under `model`"
        raise ImportRefused(message)
    return content


def list_shapes(kind: Kind) -> dict[str, torch.Size]:
    """Return the shape of each array that a checkpoint of `kind` must contain: 320 of the network, 10 of the heads."""
    with torch.device("meta"):
        trunk = resnet50(weights=None, num_classes=PAPER_FEATURES)
    shapes = {f"{TRUNK}{name}": values.shape for name, values in trunk.state_dict().items()}
    if kind == "anomalies":
        shapes |= {f"{name}.weight": torch.Size((1, PAPER_FEATURES)) for name in HEADS}
        shapes |= {f"{name}.bias": torch.Size((1,)) for name in HEADS}
    return shapes


def is_leftover(name: str, kind: Kind) -> bool:
    """Return whether the array belongs to the text encoder, which no extractor needs."""
    return name in CLIP_LEFTOVERS or (kind == "exif-as-language" and name.startswith(TEXT_TOWER))


def rename_array(name: str) -> str:
    """Return the name in a `PretextNetwork` of an array of the checkpoint."""
    if name.startswith(TRUNK):
        return f"extractor.trunk.{name.removeprefix(TRUNK)}"
    head, part = name.split(".")
    return f"heads.{HEADS[head]}.{part}"


def to_float32(values: Tensor) -> Tensor:
    """Return weights as FP32; counters stay integers."""
    return values.float() if values.is_floating_point() else values


def first_line(error: Exception) -> str:
    """Return the first line of a library's message, without its advice to load unsafely."""
    return str(error).split("\n", maxsplit=1)[0][:200]
