"""Published checkpoints to safetensors: the authors' extractor, and EXIF-as-language's, which theirs starts from.

An offline converter, and the only place where a pickle is read: by torch's loader of plain tensors, in versions
without its known bypasses. Both files are envelopes of `epoch`, `model`, `optimizer` and `lr_sched`, whose `model`
holds torchvision's ResNet-50 with a 768-wide last layer under `model.visual.`. Every key is accounted for: the
authors load theirs loosely, and there a wrong prefix silently leaves ImageNet's weights.
"""

import pickle
import zipfile
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from torchvision.models import resnet50

from training.pretext.backbone import FEATURE_SIZE
from training.pretext.checkpoints import write_whole
from training.pretext.network import MANIPULATION, describe_differences

Kind = Literal["anomalies", "exif-as-language"]

SAFE_TORCH = "2.10"
ENVELOPE = {"epoch", "model", "optimizer", "lr_sched"}
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
    """The file is not what it was said to be; nothing was written."""


def import_checkpoint(path: Path, kind: Kind, out: Path) -> str:
    """Convert the checkpoint at `path` into the safetensors file `out`, for `load_initial`; return a summary.

    Args:
        path: what was downloaded from the publishers.
        kind: "anomalies" for the authors' extractor with its five heads, "exif-as-language" for an extractor alone.
        out: written whole or not at all.

    Raises:
        ImportRefused: the file holds more than tensors, or other keys or shapes than `kind` has; both are named.
        FileNotFoundError: there is no such file.
    """
    envelope = read_envelope(path)
    model = envelope["model"]
    expected = list_shapes(kind)
    ignored = {name for name in model if is_leftover(name, kind)}
    given = set(model) - ignored
    wrong = {name for name in given & set(expected) if model[name].shape != expected[name]}
    if differ := describe_differences(set(expected) - given, given - set(expected), wrong):
        wrapped = any(name.startswith("module.") for name in given)
        hint = (
            "; it was saved from inside DataParallel, whose prefix `module.` must be removed first" if wrapped else ""
        )
        message = f"{path} is no {kind} checkpoint: {differ}{hint}"
        raise ImportRefused(message)
    weights = {rename(name): to_float32(model[name]) for name in expected}
    if broken := [name for name, values in weights.items() if not values.isfinite().all()]:
        message = f"{path} has a NaN or infinite weight in {', '.join(broken[:3])}: download it again"
        raise ImportRefused(message)
    facts = {"kind": kind, "epoch": str(envelope["epoch"]), "licence": LICENCE[kind]}
    write_whole(out, weights, {"imported": facts})
    return f"{out}: {len(weights)} arrays of epoch {facts['epoch']}, {len(ignored)} left out ({facts['licence']})"


def read_envelope(path: Path) -> dict[str, dict[str, Tensor]]:
    """Return the top level of a checkpoint, its arrays mapped from the disk where the format allows.

    Raises:
        ImportRefused: torch is too old to be trusted with it, or it is no envelope of tensors.
    """
    if torch.__version__ < SAFE_TORCH:
        message = (
            f"torch {torch.__version__} has known ways around its safe loader: import with torch {SAFE_TORCH} or later"
        )
        raise ImportRefused(message)
    with path.open("rb") as file:
        mappable = zipfile.is_zipfile(file)
    try:
        envelope = torch.load(path, map_location="cpu", weights_only=True, mmap=mappable)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        message = f"{path} holds something other than tensors, or is damaged, and is not loaded: {first_line(error)}"
        raise ImportRefused(message) from error
    if not isinstance(envelope, dict) or set(envelope) != ENVELOPE:
        found = set(envelope) if isinstance(envelope, dict) else set()
        differ = describe_differences(ENVELOPE - found, {str(name) for name in found - ENVELOPE}, set())
        message = f"{path} is no envelope of {', '.join(sorted(ENVELOPE))}: {differ}"
        raise ImportRefused(message)
    model = envelope["model"]
    if not isinstance(model, dict) or not all(isinstance(values, Tensor) for values in model.values()):
        message = f"{path} holds something other than arrays under `model`"
        raise ImportRefused(message)
    return envelope


def list_shapes(kind: Kind) -> dict[str, torch.Size]:
    """Return the shape of each array that a checkpoint of `kind` must hold: 320 of the network, 10 of the heads."""
    with torch.device("meta"):
        trunk = resnet50(weights=None, num_classes=FEATURE_SIZE)
    shapes = {f"{TRUNK}{name}": values.shape for name, values in trunk.state_dict().items()}
    if kind == "anomalies":
        shapes |= {f"{name}.weight": torch.Size((1, FEATURE_SIZE)) for name in HEADS}
        shapes |= {f"{name}.bias": torch.Size((1,)) for name in HEADS}
    return shapes


def is_leftover(name: str, kind: Kind) -> bool:
    """Return whether the array belongs to the text side, which no extractor needs."""
    return name in CLIP_LEFTOVERS or (kind == "exif-as-language" and name.startswith(TEXT_TOWER))


def rename(name: str) -> str:
    """Return what an array of the checkpoint is called in a `PretextNetwork`."""
    if name.startswith(TRUNK):
        return f"extractor.trunk.{name.removeprefix(TRUNK)}"
    head, part = name.split(".")
    return f"heads.{HEADS[head]}.{part}"


def to_float32(values: Tensor) -> Tensor:
    """Return weights as FP32; counters stay whole numbers."""
    return values.float() if values.is_floating_point() else values


def first_line(error: Exception) -> str:
    """Return the first line of a library's message, which goes on with advice to load unsafely."""
    return str(error).split("\n", maxsplit=1)[0][:200]
