"""Find 68 landmarks with the face-alignment package (2D-FAN-4, as in the paper).

No other module imports `face_alignment`. Only its landmark network is used: the face boxes are known, so the weights of
its face detector are not needed. Nothing is downloaded.
"""

from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError  # torch's safe loader raises it
from typing import Any, Self

import numba
import numpy as np
import torch
from torch import nn

from training.data.landmarks import FACE_ALIGNMENT, Box, Crop, Points

# The package compiles two loops over 68 points, which takes 10 s and saves 3 ms of a face's 290.
numba.config.DISABLE_JIT = True  # type: ignore[attr-defined]  # missing in the stub
from face_alignment import FaceAlignment, LandmarksType  # noqa: E402 - reads the setting when it is imported
from face_alignment.models import FAN  # noqa: E402 - likewise

WEIGHTS = "2DFAN4-11f355bf06.pth.tar"


class _LocalFaceAlignment(FaceAlignment):  # type: ignore[misc]  # the package is untyped
    """The package's landmark finder, with weights from a file instead of a download."""

    def __init__(self, weights: Path) -> None:
        self._weights = weights
        # The "folder" detector has no weights; it is never called.
        super().__init__(LandmarksType.TWO_D, device="cpu", flip_input=False, face_detector="folder", compile=False)

    def _load_native(self, _name: str, network_size: int, device: str, dtype: torch.dtype) -> nn.Module:
        network = FAN(network_size)
        network.load_state_dict(torch.load(self._weights, map_location=device, weights_only=True))
        loaded: nn.Module = network.to(device, dtype=dtype).eval()
        return loaded


@dataclass(frozen=True, slots=True)
class FanLandmarker:
    """The package as a `Landmarker`."""

    finder: Any
    name: str = FACE_ALIGNMENT

    @classmethod
    def load(cls, folder: Path | None) -> Self:
        """Read the weights from `folder`, by default torch's download folder.

        Raises:
            FileNotFoundError: the file is missing.
            ValueError: the file contains other weights.
        """
        path = (folder or Path(torch.hub.get_dir()) / "checkpoints") / WEIGHTS
        if not path.is_file():
            message = (
                f"face-alignment's weights {WEIGHTS} are not in {path.parent}: put the file there "
                f"(it is never downloaded), name its folder as `--landmarks {FACE_ALIGNMENT}:DIR`, "
                "or give the folder of face-api's network"
            )
            raise FileNotFoundError(message)
        try:
            return cls(_LocalFaceAlignment(path))
        except (RuntimeError, UnpicklingError, AttributeError, TypeError, EOFError) as error:
            message = f"{path} does not contain the weights of 2D-FAN-4 ({type(error).__name__}): download it again"
            raise ValueError(message) from error

    def find(self, crop: Crop, box: Box) -> Points:
        """Return [68, 2] points in pixels of `crop`."""
        x, y, width, height = box
        found = self.finder.get_landmarks_from_image(crop, detected_faces=[np.array([x, y, x + width, y + height])])
        points: Points = np.asarray(found[0], dtype=np.float32)
        return points
