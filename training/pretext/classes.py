"""The classes of the two heads that tell cameras and kinds of manipulation apart; only the recipe `starter` has them.

The heads are trained and never deployed. A class of -1 is unknown and has no loss.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy

from training.data.shards import FaceSet
from training.recipes import LossRule, Manipulation

CAMERA, KIND = "camera", "kind"
CAMERA_FACES = 15  # the least number of training faces of a camera that is a class
KINDS = tuple(kind for kind in Manipulation if kind is not Manipulation.NONE)
UNKNOWN = -1


def list_classes(train: FaceSet, losses: LossRule) -> dict[str, tuple[str, ...]]:
    """Return the classes of each head that `losses` trains; a head with fewer than two classes is left out."""
    names, faces = np.unique(train.cameras[train.cameras != ""], return_counts=True)
    classes = {
        CAMERA: tuple(names[faces >= CAMERA_FACES].tolist()) if losses.camera_weight else (),
        KIND: tuple(map(str, KINDS)) if losses.kind_weight else (),
    }
    return {task: found for task, found in classes.items() if len(found) > 1}


def number_cameras(cameras_N: NDArray[np.str_], classes: tuple[str, ...]) -> Tensor:
    """Return [N] the class of each camera."""
    numbers = {name: number for number, name in enumerate(classes)}
    return torch.tensor([numbers.get(name, UNKNOWN) for name in cameras_N.tolist()], dtype=torch.int64)


def number_kind(kind: Manipulation) -> int:
    """Return the class of a manipulation; an untouched face has none."""
    return UNKNOWN if kind is Manipulation.NONE else KINDS.index(kind)


def classification_loss(logits_MC: Tensor, classes_M: Tensor) -> Tensor:
    """Return the mean cross-entropy over the crops with a known class, else zero."""
    known = (classes_M != UNKNOWN).sum().clamp(min=1)
    return cross_entropy(logits_MC, classes_M, ignore_index=UNKNOWN, reduction="sum") / known
